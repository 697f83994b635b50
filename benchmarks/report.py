"""The README's tables, the plots, and the sections of docs/performance.md, made from `benchmarks/results`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from benchmarks import alternatives, targets
from benchmarks.performance import section
from benchmarks.plots import draw
from benchmarks.recorded import (
    Backbones,
    Environment,
    Quantisation,
    Recorded,
    Result,
    SearchResult,
    StartResult,
    Throughput,
    commits,
    machines,
    read,
)

ROOT = Path(__file__).parents[1]
README, PERFORMANCE = ROOT / "README.md", ROOT / "docs/performance.md"
IMAGES = "images/performance"
"""Of the plots, under `docs`."""
FIGURES, SCORES, LOAD, BACKBONES = "figures", "scores", "load", "backbones"
QUANTISATION, PEERS, TARGETS = "quantisation", "peers", "targets"
"""Sections of documents, see `put`."""
JUDGED = ("throughput", "ingest", "memory", "search")
"""Results with targets."""


class Scores(TypedDict):
    """Of `scores`: where each was measured, and measures by name, for each model."""

    environments: dict[str, Environment]
    base: dict[str, float]
    glyph: dict[str, float]
    cells: dict[str, float]
    garments: dict[str, float]
    faces: NotRequired[dict[str, float]]
    imported: dict[str, float]


@dataclass(frozen=True)
class Places:
    """Where results are, and what is made of them.

    Attributes:
        results: folder of the JSON files.
        readme: with the sections `figures` and `scores`; None: it is left alone.
        performance: with the sections `targets`, `load`, `peers`, `backbones` and `quantisation`; None: it is left
            alone.
        images: folder of the plots.
    """

    results: Path
    readme: Path | None = README
    performance: Path | None = PERFORMANCE
    images: Path = ROOT / "docs" / IMAGES


def write(places: Places) -> None:
    """Draws the plots, and puts the tables between the documents' markers.

    Raises:
        ValueError: a document has no markers.
    """
    draw(places.results, places.images)
    if places.readme is not None:
        put(places.readme, {FIGURES: tables(places.results), SCORES: models(places.results)})
    if places.performance is not None:
        made = {
            TARGETS: judged(places.results),
            LOAD: section(places.results, IMAGES),
            PEERS: alternatives.section(places.results),
            BACKBONES: backbones(places.results),
            QUANTISATION: quantisation(places.results),
        }
        put(places.performance, made)


def put(document: Path, contents: Mapping[str, str]) -> None:
    """Puts each content between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.

    Raises:
        ValueError: the document has no such markers.
    """
    text = document.read_text("utf-8")
    for name, content in contents.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{document.name} must hold `{begin}` and `{end}`.")
        text = f"{before}{begin}\n{content}\n{end}{after}"
    document.write_text(text, "utf-8")


def models(results: Path) -> str:
    """Returns the table of the shipped models as Markdown."""
    scores: Scores = json.loads((results / "scores.json").read_text())
    b, g, c, k = scores["base"], scores["glyph"], scores["cells"], scores["garments"]
    lines = [
        "| Model | Use | Scores on data held out from its training |",
        "| --- | --- | --- |",
        f"| `base` | photographs: search, copies | Recall@1 / MAP@R on held-out classes (its initial weights saw "
        f"some of them in ImageNet): Caltech-101 "
        f"{b['caltech_recall_at_1']:.3f} / {b['caltech_map_at_r']:.3f} (features of MobileNetV1 0.75: "
        f"{b['caltech_recall_at_1_mobilenet']:.3f} / {b['caltech_map_at_r_mobilenet']:.3f}), clothes "
        f"{b['clothing_recall_at_1']:.3f} / {b['clothing_map_at_r']:.3f} ({b['clothing_recall_at_1_mobilenet']:.3f} / "
        f"{b['clothing_map_at_r_mobilenet']:.3f}); takes {b['base_ms'] / b['mobilenet_ms']:.2f} of MobileNetV1's time "
        "per image, each as served |",
        f"| `glyph` | hand-drawn characters, new alphabets included | 20-way one-shot within an alphabet "
        f"{g['one_shot_20_way_within_alphabet']:.3f}, unstructured {g['one_shot_20_way_unstructured']:.3f}; "
        f"verification: area under the ROC {g['verification_auc']:.3f}, accuracy {g['verification_accuracy']:.3f} at "
        "the best threshold on these pairs |",
        f"| `cells` | blood cells in microscope images: an example of your own detector | AP50 {c['ap_50']:.3f}, AP "
        f"{c['ap']:.3f} on the official validation list, without one image that has a box of no area |",
        f"| `garments` | ten kinds of clothes: an example of your own classifier | top-1 "
        f"{k['top1_accuracy']:.3f}, expected calibration error {k['expected_calibration_error']:.3f} on "
        f"{k['pictures']:.0f} images, of which {k['calibration_error_by_chance']:.3f} is due to chance |",
        "",
        "Imported weights reproduce the reference outputs that come with them to a relative error of "
        f"{max(scores['imported'].values()):.1e}.{_faces(scores)}",
        "",
        f"Measured by `make scores DATA=DIR` at {commits(scores['environments'])}.",
    ]
    return "\n".join(lines)


def _faces(scores: Scores) -> str:
    """Returns the sentence on faces, where they were measured."""
    if "faces" not in scores:
        return ""
    f = scores["faces"]
    return (
        " A face embedding that `twinsight train siamese` makes from photos of other people separates the pairs of "
        f"fold 7 of Labeled Faces in the Wild with accuracy {f['accuracy_at_probability_half']:.3f} at a calibrated "
        f"probability of one half ({f['verification_accuracy']:.3f} at the best threshold on these pairs; area under "
        f"the ROC {f['verification_auc']:.3f}). It does not ship, since its training images are for research."
    )


def backbones(results: Path) -> str:
    """Returns the table of the backbones as Markdown, the most accurate for its time first."""
    measured = read(Backbones, results, "backbones")
    if measured is None:
        return "Not measured yet: `python -m benchmarks.backbones --data DIR` does it."
    machine = measured["environment"]["machine"]
    ranked = sorted(measured["backbones"].items(), key=lambda one: -one[1]["top1_per_ms"])
    lines = [
        f"{measured['what']}; top-1 on a held-out fifth, with its 95 % interval. Times "
        f"are per image as it is served, by {' and '.join(sorted(set(measured['executors'].values())))} on "
        f"{machine['cores']} cores of an {machine['cpu']}, at commit `{measured['environment']['commit']}`.",
        "",
        "| Backbone | Parameters, millions | Top-1 | ms, batch of 1 | ms an image, batch of 8 | Top-1 / ms, batch of 1 "
        "| Training, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| `{name}` | {f['parameters'] / 1e6:.2f} | {f['top1']:.3f} ({f['top1_low']:.3f} to {f['top1_high']:.3f}) "
            f"| {f['batch_1_ms']:.2f} | {f['batch_8_ms']:.2f} | {f['top1_per_ms']:.2f} | {f['train_s']:.0f} |"
            for name, f in ranked
        ),
    ]
    return "\n".join(lines)


def quantisation(results: Path) -> str:
    """Returns the table of int8 against float as Markdown, a line a score."""
    measured = read(Quantisation, results, "quantisation")
    if measured is None:
        return "Not measured yet: `python -m benchmarks.quantisation --data DIR` does it."
    machine = next(iter(measured["environments"].values()))["machine"]
    lines = [
        f"Float is the fastest float precision of OpenVINO here ({measured['precision']}). Processor times are medians "
        f"per image on one core of an {machine['cpu']}, both forms in turns; cosines are between the two vectors of an "
        f"image. At {commits(measured['environments'])}.",
        "",
        "| Model | Held out | float : int8, ms | Cosine, mean / lowest | Score | float | int8 | Points lost |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for name, one in measured["models"].items():
        exact, quantised, cosine = one["processor_ms"]["float"], one["processor_ms"]["int8"], one.get("cosine")
        ahead = [
            f"`{name}`",
            f"{one['pictures']}",
            f"{exact:.2f} : {quantised:.2f} ({exact / quantised:.2f} x)",
            f"{cosine['mean']:.3f} / {cosine['least']:.3f}" if cosine else "",
        ]
        for score, of in one["scores"].items():
            lost = 100 * (of["float"] - of["int8"])
            lines.append(f"| {' | '.join(ahead)} | {score} | {of['float']:.3f} | {of['int8']:.3f} | {lost:.1f} |")
            ahead = [""] * len(ahead)
    return "\n".join(lines)


def tables(results: Path) -> str:
    """Returns the tables of speed as Markdown."""
    embed: Result = json.loads((results / "embed.json").read_text())
    search: SearchResult = json.loads((results / "search.json").read_text())
    start: StartResult = json.loads((results / "startup.json").read_text())
    e, s = embed["median"], search["median"]
    measured = {"embed": embed["environment"], "search": search["environment"], "startup": start["environment"]}
    lines = [
        f"Measured by `make bench` on {machines(measured)}, shared with other work, at "
        f"{commits(measured)}; medians of five runs.",
        "",
        "| Call | p50 | The work itself, p50 | Added by the server | Of that, an empty gRPC call |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| Embed, one JPEG of 500x375 | {e['call_p50_ms']:.2f} ms | decoding {e['decode_p50_ms']:.2f} + network "
        f"{e['compiled_p50_ms']:.2f} ms | **{e['added_p50_ms']:.2f} ms** | {e['bare_grpc_p50_ms']:.2f} ms |",
        f"| Search by vector, {search.get('count', 20_000):,} x 256 | {s['call_p50_ms']:.2f} ms | hnswlib "
        f"{s['index_p50_ms']:.2f} ms | **{s['added_p50_ms']:.2f} ms** | {s['bare_grpc_p50_ms']:.2f} ms |",
        f"| The same, with four metadata fields of each of ten matches | {s['with_metadata_p50_ms']:.2f} ms | | | |",
        "",
        "| Items that match the filter | " + " | ".join(_share(name) for name in search["filters"]) + " |",
        "| --- |" + " ---: |" * len(search["filters"]),
        "| Recall@10 against exact search | "
        + " | ".join(f"{one['recall_at_10']:.3f}" for one in search["filters"].values())
        + " |",
        "| Search call, p50 | " + " | ".join(f"{one['p50_ms']:.2f} ms" for one in search["filters"].values()) + " |",
        "",
        f"Start to SERVING: {start['median']['warm_s']:.1f} s with a warm compilation cache, {start['cold_s']:.1f} s "
        f"with an empty one. Durable upserts of vectors in batches of 500: {search['upserts_per_s']:,} per second."
        f"{_refusals(read(Throughput, results, 'throughput'))}",
    ]
    if missed := _missed(results):
        lines += ["", missed]
    if beside := alternatives.table(results):
        lines += ["", *beside]
    return "\n".join(lines)


def _share(filtered: str) -> str:
    return "no filter" if filtered == "none" else filtered


def judged(results: Path) -> str:
    """Returns the table of the metrics with a target as Markdown."""
    known = _with_targets(results)
    if not known:
        return "Not measured yet: `make bench` does it."
    where = commits({name: one["environment"] for name, one in known.items()})
    return "\n".join([*targets.table(_all(known)), "", f"Each ratio is within one run. Measured at {where}."])


def _missed(results: Path) -> str:
    """Returns how many targets are met, and which are missed; empty where none were measured."""
    known = _all(_with_targets(results))
    missed = [one for one in known if not one["holds"]]
    if not known:
        return ""
    told = f"{len(known) - len(missed)} of {len(known)} [targets](docs/performance.md#targets) are met."
    if not missed:
        return told
    each = (f"{one['figure']}: {targets.measured_text(one)} ({targets.bound_text(one)})" for one in missed)
    return f"{told} Missed: {'; '.join(each)}."


def _with_targets(results: Path) -> dict[str, Recorded]:
    return {name: one for name in JUDGED if (one := read(Recorded, results, name)) is not None and "targets" in one}


def _all(known: Mapping[str, Recorded]) -> list[targets.Target]:
    return [target for one in known.values() for target in one.get("targets", [])]


def _refusals(load: Throughput | None) -> str:
    """Returns the sentence on refusals, where there were any."""
    if load is None or "refused_p50_ms" not in load["overload"]:
        return ""
    o = load["overload"]
    return (
        " Offered twice what it can do, the server refuses a call within "
        f"{o['refused_p50_ms']:.1f} ms (p50; p99 {o['refused_p99_ms']:.1f} ms)."
    )
