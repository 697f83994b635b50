"""twinsight beside its alternatives, as `python -m benchmarks.peers` measured them, for the documents."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from benchmarks import targets
from benchmarks.recorded import Environment, Figures, read

_AT_LEAST = {
    "server_images_over_in_process": (0.9, "Throughput, 16 in flight: twinsight / the same work in process"),
    "images_over_triton": (1.5, "Throughput, 16 in flight: twinsight / Triton"),
    "images_over_litserve": (1.5, "Throughput, 16 in flight: twinsight / LitServe"),
    "queries_over_milvus": (3.0, "Throughput, 16 in flight: twinsight / Milvus"),
    "queries_over_pgvector": (1.5, "Throughput, 16 in flight: twinsight / pgvector"),
}
_AT_MOST = {
    "compute_over_openvino_batch_1": (1.05, "p50, batch of 1: twinsight's executor / OpenVINO in the same precision"),
    "compute_over_openvino_batch_8": (1.05, "p50, batch of 8: twinsight's executor / OpenVINO in the same precision"),
    "compute_over_onnxruntime_batch_1": (0.7, "p50, batch of 1: twinsight's executor / ONNX Runtime"),
    "compute_over_onnxruntime_batch_8": (0.7, "p50, batch of 8: twinsight's executor / ONNX Runtime"),
    "p99_over_triton": (1.0, "p99, 16 in flight: twinsight / Triton"),
    "p99_over_litserve": (1.0, "p99, 16 in flight: twinsight / LitServe"),
    "p50_beyond_hnswlib_ms": (0.4, "p50, one at a time: twinsight - hnswlib in process"),
}
"""Targets of the ratios, and of one difference in ms, with what they are of, by the names that `peers` gives them."""

_COLUMNS = {
    "embed": (
        ("p50, ms", "p50_ms"),
        ("p99, ms", "p99_ms"),
        ("images/s, 16 in flight", "per_s"),
        ("p99, ms, 16 in flight", "load_p99_ms"),
    ),
    "search": (
        ("p50, ms", "p50_ms"),
        ("p99, ms", "p99_ms"),
        ("queries/s, 16 in flight", "per_s"),
        ("p99, ms, 16 in flight", "load_p99_ms"),
        ("queries/s, 64 a call", "batch_per_s"),
    ),
}
_TITLES = {"embed": "Embed", "search": "Search"}
_SERVERS = (
    ("Embed with the same network in float32", "Triton", "triton", "images"),
    ("Embed with the same network in float32", "LitServe", "litserve", "images"),
    ("Search by vector", "Milvus", "milvus", "queries"),
    ("Search by vector", "pgvector", "pgvector", "queries"),
)
"""In the README's table: the call, the server, its name in the ratios, and what is counted there."""


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
        f"generator on the same cores, at commit `{commit}`; each peer with the best of the settings that were tried."
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
        runs = ratio.get("runs")
        if runs is None:
            continue
        unit = "ms" if name.endswith("_ms") else ""
        if name in _AT_LEAST:
            bound, metric = _AT_LEAST[name]
            yield targets.at_least(bound, metric, runs, unit=unit)
        elif name in _AT_MOST:
            bound, metric = _AT_MOST[name]
            yield targets.at_most(bound, metric, runs, unit=unit)


def table(results: Path) -> list[str]:
    """Returns the lines of how it stands beside other servers, for the README; none where that was not measured."""
    halves = _halves(results).values()
    medians = {
        name: statistics.median(ratio["runs"])
        for half in halves
        for name, ratio in half["bars"].items()
        if "runs" in ratio
    }
    names = {
        peer: (f"{counted}_over_{peer}", f"p99_over_{peer}", f"alone_p50_over_{peer}") for *_, peer, counted in _SERVERS
    }
    if not medians.keys() >= {one for of_peer in names.values() for one in of_peer}:
        return []
    judged = [one for half in halves for one in _judged(half["bars"])]
    missed = sum(not one["holds"] for one in judged)
    return [
        "Beside other servers, as ratios within one run: the throughput of twinsight divided by that of the peer "
        "(higher is better), and its latency divided by that of the peer (lower is better).",
        "",
        "| twinsight / peer | Images or queries per second, 16 in flight | p99, 16 in flight | p50, one at a time |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {title} ({call}) | " + " | ".join(f"{medians[one]:.2f}" for one in names[peer]) + " |"
            for call, title, peer, _ in _SERVERS
        ),
        "",
        f"Of {len(judged)} targets for such comparisons {missed} are missed: "
        "[docs/performance.md](docs/performance.md#beside-the-alternatives).",
    ]


def _halves(results: Path) -> Mapping[str, Half]:
    measured = read(Peers, results, "peers") or Peers()
    halves = {"embed": measured.get("embed"), "search": measured.get("search")}
    return {name: half for name, half in halves.items() if half is not None}


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
