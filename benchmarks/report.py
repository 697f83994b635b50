"""The README's tables, made from `benchmarks/results`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


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


def write(results: Path) -> None:
    """Puts the tables between the README's markers.

    Raises:
        ValueError: the README has no markers.
    """
    text = README.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md must hold `{BEGIN}` and `{END}`.")
    README.write_text(f"{before}{BEGIN}\n{tables(results)}\n{END}{after}", "utf-8")


def tables(results: Path) -> str:
    """Returns the tables as Markdown."""
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
