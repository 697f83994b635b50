"""twinsight beside its alternatives, as `python -m benchmarks.peers` measured them, for the documents."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from benchmarks import targets
from benchmarks.recorded import Environment, Figures, read

_AT_LEAST = {
    "server_images_over_in_process": 0.9,
    "images_over_triton": 1.5,
    "images_over_litserve": 1.5,
    "queries_over_milvus": 3.0,
    "queries_over_pgvector": 1.5,
}
_AT_MOST = {
    "compute_over_openvino_batch_1": 1.05,
    "compute_over_openvino_batch_8": 1.05,
    "compute_over_onnxruntime_batch_1": 0.7,
    "compute_over_onnxruntime_batch_8": 0.7,
    "p99_over_triton": 1.0,
    "p99_over_litserve": 1.0,
    "p50_beyond_hnswlib_ms": 0.4,
}
"""What ratios, and one difference in ms, have to be, by the names that `peers` gives them."""

_COLUMNS = {
    "embed": (
        ("p50, ms", "p50_ms"),
        ("p99, ms", "p99_ms"),
        ("pictures/s, 16 at once", "per_s"),
        ("p99 then, ms", "load_p99_ms"),
    ),
    "search": (
        ("p50, ms", "p50_ms"),
        ("p99, ms", "p99_ms"),
        ("queries/s, 16 at once", "per_s"),
        ("p99 then, ms", "load_p99_ms"),
        ("queries/s, 64 a call", "batch_per_s"),
    ),
}
_TITLES = {"embed": "Embed", "search": "Search"}
_TOLD = {
    "images_over_triton",
    "p99_over_triton",
    "images_over_litserve",
    "p99_over_litserve",
    "queries_over_milvus",
    "alone_p50_over_milvus",
    "queries_over_pgvector",
    "alone_p50_over_pgvector",
}
"""Ratios in the README's sentence."""


class Peer(TypedDict):
    """One of them."""

    what: str
    median: NotRequired[Figures]
    failed: NotRequired[str]


class Ratio(TypedDict):
    """Two of them set against each other; without `runs` one of them failed."""

    of: NotRequired[str]
    runs: NotRequired[list[float]]


class Half(TypedDict):
    """Of `peers`: all that do the same."""

    environment: Environment
    what: str
    peers: dict[str, Peer]
    bars: dict[str, Ratio]


class Peers(TypedDict):
    """Of `peers`."""

    embed: NotRequired[Half]
    search: NotRequired[Half]


def section(results: Path) -> str:
    """Returns the tables as Markdown."""
    halves = _halves(results)
    if not halves:
        return "Not measured yet: `make bench-peers` does it."
    return "\n\n".join("\n".join(_half(name, half)) for name, half in halves.items())


def _half(name: str, half: Half) -> Iterator[str]:
    machine, commit = half["environment"]["machine"], half["environment"]["commit"]
    columns = _COLUMNS[name]
    yield f"### {_TITLES[name]}"
    yield ""
    yield (
        f"{half['what']}. Medians of five runs in turns on {machine['cores']} cores of an {machine['cpu']}, the load "
        f"on the same cores, at commit `{commit}`; each peer with the best of the settings that were tried."
    )
    yield ""
    yield f"| | {' | '.join(title for title, _ in columns)} |"
    yield "| --- |" + " ---: |" * len(columns)
    for peer in half["peers"].values():
        if "median" in peer:
            shown = (_number(peer["median"].get(key)) for _, key in columns)
            yield f"| {peer['what']} | {' | '.join(shown)} |"
    failed = [f"{peer['what']}: {peer['failed']}" for peer in half["peers"].values() if "failed" in peer]
    if failed:
        yield ""
        yield f"Not measured: {'; '.join(failed)}"
    yield ""
    yield from targets.table(_judged(half["bars"]))


def _judged(ratios: Mapping[str, Ratio]) -> Iterator[targets.Target]:
    for name, ratio in ratios.items():
        figure, runs = ratio.get("of"), ratio.get("runs")
        if figure is None or runs is None:
            continue
        unit = "ms" if name.endswith("_ms") else ""
        if name in _AT_LEAST:
            yield targets.at_least(_AT_LEAST[name], _plain(figure), runs, unit=unit)
        elif name in _AT_MOST:
            yield targets.at_most(_AT_MOST[name], _plain(figure), runs, unit=unit)


def sentence(results: Path) -> str:
    """Returns how it stands beside other servers, in a sentence for the README; empty where that was not measured."""
    m = {
        name: statistics.median(ratio["runs"])
        for half in _halves(results).values()
        for name, ratio in half["bars"].items()
        if "runs" in ratio
    }
    if not m.keys() >= _TOLD:
        return ""
    return (
        f"Beside others, each ratio within one run: {m['images_over_triton']:.2f} times the pictures a second of "
        f"Triton and {m['images_over_litserve']:.2f} of LitServe on the same network (p99 "
        f"{m['p99_over_triton']:.2f} and {m['p99_over_litserve']:.2f} times theirs), "
        f"{m['queries_over_milvus']:.2f} times the queries a second of Milvus and "
        f"{m['queries_over_pgvector']:.2f} of pgvector with 16 at once; p50 of one at a time "
        f"{m['alone_p50_over_milvus']:.2f} and {m['alone_p50_over_pgvector']:.2f} times theirs."
    )


def _halves(results: Path) -> Mapping[str, Half]:
    measured = read(Peers, results, "peers") or Peers()
    halves = {"embed": measured.get("embed"), "search": measured.get("search")}
    return {name: half for name, half in halves.items() if half is not None}


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _plain(figure: str) -> str:
    return figure.replace("_", " ")
