"""The README's tables, made from `benchmarks/results`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NotRequired, TypedDict

README = Path(__file__).parent.parent / "README.md"
FIGURES, SCORES = "figures", "scores"
"""Sections of the README between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""


class Machine(TypedDict):
    """Of `environment`."""

    cpu: str
    cores: int


class Environment(TypedDict):
    """Where a result was measured."""

    measured_at: str
    commit: str
    machine: Machine


class Result(TypedDict):
    """The parts of a result that the tables show."""

    environment: Environment
    what: str
    median: dict[str, float]


class SearchResult(Result):
    """Of `search`."""

    upserts_per_s: int
    filters: dict[str, dict[str, float]]


class OverloadResult(Result):
    """Of `overload`."""

    refused: dict[str, float]


class StartResult(Result):
    """Of `startup`."""

    cold_s: float


class Scores(TypedDict):
    """Of `scores`: where each was measured, and measures by name, for each model."""

    environments: dict[str, Environment]
    base: dict[str, float]
    glyph: dict[str, float]
    cells: dict[str, float]
    garments: dict[str, float]
    faces: NotRequired[dict[str, float]]
    imported: dict[str, float]


def write(results: Path) -> None:
    """Puts the tables between the README's markers.

    Raises:
        ValueError: the README has no markers.
    """
    text = README.read_text("utf-8")
    for name, content in ((FIGURES, tables(results)), (SCORES, models(results))):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"README.md must hold `{begin}` and `{end}`.")
        text = f"{before}{begin}\n{content}\n{end}{after}"
    README.write_text(text, "utf-8")


def models(results: Path) -> str:
    """Returns the table of the shipped models as Markdown."""
    scores: Scores = json.loads((results / "scores.json").read_text())
    b, g, c, k = scores["base"], scores["glyph"], scores["cells"], scores["garments"]
    lines = [
        "| model | for | on data held out from its training |",
        "| --- | --- | --- |",
        f"| `base` | photographs: search, copies | Recall@1 / MAP@R on classes never trained on: Caltech-101 "
        f"{b['caltech_recall_at_1']:.3f} / {b['caltech_map_at_r']:.3f} (MobileNetV1 0.75's features: "
        f"{b['caltech_recall_at_1_mobilenet']:.3f} / {b['caltech_map_at_r_mobilenet']:.3f}), clothes "
        f"{b['clothing_recall_at_1']:.3f} / {b['clothing_map_at_r']:.3f} ({b['clothing_recall_at_1_mobilenet']:.3f} / "
        f"{b['clothing_map_at_r_mobilenet']:.3f}); in {b['base_ms'] / b['mobilenet_ms']:.2f} of its time a picture, "
        "each as it is served |",
        f"| `glyph` | hand-drawn characters, also of new alphabets | 20-way one-shot within an alphabet "
        f"{g['one_shot_20_way_within_alphabet']:.3f}, unstructured {g['one_shot_20_way_unstructured']:.3f}; "
        f"verification {g['verification_accuracy']:.3f} |",
        f"| `cells` | blood cells in a microscope's pictures: a detector of one's own | AP50 {c['ap_50']:.3f}, AP "
        f"{c['ap']:.3f} on the official validation list |",
        f"| `garments` | ten kinds of clothes: a classifier of one's own | top-1 {k['top1_accuracy']:.3f}, expected "
        f"calibration error {k['expected_calibration_error']:.3f} on {k['pictures']:.0f} pictures, of which "
        f"{k['calibration_error_by_chance']:.3f} are chance |",
        "",
        "Imported weights give the answers that come with them to a relative error of "
        f"{max(scores['imported'].values()):.1e}.{_faces(scores)}",
        "",
        f"Measured by `make scores DATA=DIR` at {_commits(scores['environments'])}.",
    ]
    return "\n".join(lines)


def _commits(environments: dict[str, Environment]) -> str:
    """Returns the commits that results are of, and which of them where there are several."""
    named: dict[str, list[str]] = {}
    for name, one in environments.items():
        named.setdefault(one["commit"], []).append(f"`{name}`")
    if len(named) == 1:
        return f"commit `{next(iter(named))}`"
    return "commits " + ", ".join(f"`{commit}` ({', '.join(names)})" for commit, names in named.items())


def _faces(scores: Scores) -> str:
    """Returns the sentence on faces, where they were measured."""
    if "faces" not in scores:
        return ""
    f = scores["faces"]
    return (
        " An embedding of faces that `twinsight train siamese` makes from other people's pictures tells the pairs of "
        f"fold 7 of Labeled Faces in the Wild apart with accuracy {f['verification_accuracy']:.3f} (area under the ROC "
        f"{f['verification_auc']:.3f}); it does not ship, since the pictures are for research."
    )


def tables(results: Path) -> str:
    """Returns the tables of speed as Markdown."""
    embed: Result = json.loads((results / "embed.json").read_text())
    search: SearchResult = json.loads((results / "search.json").read_text())
    overload: OverloadResult = json.loads((results / "overload.json").read_text())
    start: StartResult = json.loads((results / "startup.json").read_text())
    e, s = embed["median"], search["median"]
    where = embed["environment"]
    lines = [
        f"Measured on {where['machine']['cores']} cores of an {where['machine']['cpu']}, shared with other work, at "
        f"commit `{where['commit']}`; medians of five runs.",
        "",
        "| | call, p50 | the work itself, p50 | added by the server | of which an empty gRPC call costs |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| Embed, one JPEG of 500x375 | {e['call_p50_ms']:.2f} ms | decode {e['decode_p50_ms']:.2f} + compiled call "
        f"{e['compiled_p50_ms']:.2f} ms | **{e['added_p50_ms']:.2f} ms** | {e['bare_grpc_p50_ms']:.2f} ms |",
        f"| Search by vector, 20,000 x 256 | {s['call_p50_ms']:.2f} ms | hnswlib {s['index_p50_ms']:.2f} ms "
        f"| **{s['added_p50_ms']:.2f} ms** | {s['bare_grpc_p50_ms']:.2f} ms |",
        "",
        "| items that meet the filter | " + " | ".join(search["filters"]) + " |",
        "| --- |" + " ---: |" * len(search["filters"]),
        "| recall@10 against exact | "
        + " | ".join(f"{one['recall_at_10']:.3f}" for one in search["filters"].values())
        + " |",
        "| Search call, p50 | " + " | ".join(f"{one['p50_ms']:.2f} ms" for one in search["filters"].values()) + " |",
        "",
        f"Start to SERVING: {start['median']['warm_s']:.1f} s with a warm compilation cache, {start['cold_s']:.1f} s "
        f"with an empty one. Durable upserts of vectors in batches of 500: {search['upserts_per_s']:,} a second. "
        f"A full server refuses after {overload['refused']['p50']:.1f} ms (p99 {overload['refused']['p99']:.1f} ms).",
    ]
    return "\n".join(lines)
