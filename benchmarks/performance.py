"""The section of docs/performance.md on how the server behaves under load and as it grows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.recorded import Figures, Growth, Ingest, Memory, Recall, Recorded, Throughput, commits, machines, read

MEASURED = ("throughput", "ingest", "memory", "recall", "growth")
KINDS = ("rss", "pss", "private")
FORMS = (
    ("large", "vectors on disk"),
    ("int8", "int8 and vectors on disk"),
    ("int8_in_memory", "int8 in memory, vectors on disk"),
    ("in_memory", "vectors in memory"),
)
"""Of `memory`: names of what is measured, and what they are."""
Column = tuple[str, str, str]
"""Heading, name of the figure, and format of a column."""
CORES: tuple[Column, ...] = (("cores: load", "load_cores", ".2f"), ("server", "server_cores", ".2f"))


def section(results: Path, images: str) -> str:
    """Returns the section as Markdown: what there are results for; `images` is the folder of the plots in links."""
    parts = [
        *_environments(results),
        *_throughput(read(Throughput, results, "throughput"), images),
        *_ingest(read(Ingest, results, "ingest")),
        *_memory(read(Memory, results, "memory")),
        *_recall(read(Recall, results, "recall"), images),
        *_growth(read(Growth, results, "growth"), images),
    ]
    return "\n\n".join(parts) if parts else "Not measured yet: `make bench` does it."


def _environments(results: Path) -> Iterator[str]:
    found = {name: one for name in MEASURED if (one := read(Recorded, results, name)) is not None}
    if not found:
        return
    environments = {name: one["environment"] for name, one in found.items()}
    yield (
        f"Measured by `make bench` on {machines(environments)}, load and server on the same cores, at "
        f"{commits(environments, named=True)}. `cores` are those that the load generator and the server kept busy: "
        "once they add up to all cores, more load gains nothing."
    )


def _throughput(result: Throughput | None, images: str) -> Iterator[str]:
    if result is None:
        return
    yield "### Embed under load"
    yield f"{result['what']}.\n\n![Pictures a second and latency by calls in flight]({images}/throughput.svg)"
    columns = (
        ("calls in flight", "concurrency", ".0f"),
        ("pictures/s", "per_s", ".0f"),
        ("in process", "in_process_per_s", ".0f"),
        ("p50, ms", "p50_ms", ".1f"),
        ("p99, ms", "p99_ms", ".1f"),
        *CORES,
    )
    yield _table(result["closed"], columns)
    yield (
        "In an open loop, calls are due at fixed times whatever the server does, and latency counts from then.\n\n"
        f"![Answered calls and latency by calls due]({images}/open_loop.svg)"
    )
    columns = (
        ("of capacity", "share", ".1f"),
        ("due/s", "rate", ".0f"),
        ("answered/s", "per_s", ".0f"),
        ("refused", "refused", ".0f"),
        ("p50, ms", "p50_ms", ".1f"),
        ("p99, ms", "p99_ms", ".1f"),
        ("refusals, p99, ms", "refused_p99_ms", ".1f"),
        *CORES,
    )
    yield _table(result["open"], columns)


def _ingest(result: Ingest | None) -> Iterator[str]:
    if result is None:
        return
    pictures, vectors = result["pictures"], result["vectors"]
    yield "### Ingest"
    yield f"{result['what']}."
    yield (
        f"- {pictures['count']:,} pictures: {pictures['per_s']:,.0f} a second ({_cores(pictures)}); Embed with one "
        f"picture a call {pictures['embed_per_s']:,.0f} ({_cores(pictures, 'embed_')}), with many "
        f"{pictures['embed_batched_per_s']:,.0f} ({_cores(pictures, 'embed_batched_')}).\n"
        f"- {vectors['count']:,} x {vectors['dimension']} vectors: on disk {vectors['stored_per_s']:,.0f} a second, "
        f"until all are in the graph {vectors['per_s']:,.0f} ({_cores(vectors)}); hnswlib alone "
        f"{vectors['hnswlib_per_s']:,.0f}."
    )


def _cores(figures: Figures, prefix: str = "") -> str:
    load, server = (figures[f"{prefix}{who}_cores"] for who in ("load", "server"))
    return f"cores: load {load:.2f}, server {server:.2f}"


def _memory(result: Memory | None) -> Iterator[str]:
    if result is None:
        return
    median, written = result["median"], result["above_when_written_mib"]
    yield "### Memory and start"
    needed = f"Vectors take {result['vectors_mib']:.1f} MiB, the graph's links {result['links_mib']:.1f}."
    yield f"{result['what']}. {needed}"
    yield "\n".join(
        [
            "| MiB above a server without them | resident | proportional | private |",
            "| --- | ---: | ---: | ---: |",
            *(
                _row(f"after a start, {told}", [median[f"{name}_above_{kind}_mib"] for kind in KINDS])
                for name, told in FORMS
            ),
            _row("in the server that wrote them, vectors on disk", [written[kind] for kind in KINDS]),
        ]
    )
    yield f"Start to SERVING: {median['small_start_s']:.1f} s empty, {median['large_start_s']:.1f} s with them."


def _row(name: str, values: Iterable[float]) -> str:
    return f"| {name} | " + " | ".join(f"{one:.1f}" for one in values) + " |"


def _recall(result: Recall | None, images: str) -> Iterator[str]:
    if result is None:
        return
    yield "### Recall against speed"
    yield f"{result['what']}.\n\n![Queries a second by recall]({images}/recall.svg)"
    for kind, points in result["kinds"].items():
        rows: list[Figures] = []
        for point in points:
            row: Figures = {"ef": point["ef"]}
            for name, figures in (("h", point["hnswlib"]), ("c", point["collection"]), ("s", point["server"])):
                row |= {f"{name}_{figure}": value for figure, value in figures.items()}
            rows.append(row)
        for batch, told in (("one", "one query a call"), ("many", "64 queries a call")):
            shown: tuple[Column, ...] = (("recall", "recall", ".4f"), ("queries/s", f"{batch}_per_s", ",.0f"))
            columns = (
                ("ef", "ef", ".0f"),
                *(
                    (f"{what}: {name}", f"{short}_{figure}", form)
                    for what, figure, form in shown
                    for name, short in (("hnswlib", "h"), ("collection", "c"), ("server", "s"))
                ),
                *((heading, f"s_{batch}_{figure}", form) for heading, figure, form in CORES),
            )
            yield f"{kind.capitalize()} vectors, {told}:"
            yield _table(rows, columns)


def _growth(result: Growth | None, images: str) -> Iterator[str]:
    if result is None:
        return
    yield "### As things grow"
    yield f"{result['what']}.\n\n![Latency and rate by what grows]({images}/growth.svg)"
    headings = {
        "collection": ("vectors", "count"),
        "dimension": ("dimension", "dimension"),
        "concurrency": ("calls in flight", "concurrency"),
        "batch": ("a call", "batch"),
    }
    for call, series in (("Search", result["search"]), ("Embed", result["embed"])):
        for name, points in series.items():
            heading, figure = headings[name]
            columns = (
                (f"{call}: {heading}", figure, ",.0f"),
                ("p50, ms", "p50_ms", ".2f"),
                ("p99, ms", "p99_ms", ".2f"),
                ("queries/s" if call == "Search" else "pictures/s", "per_s", ",.0f"),
                *CORES,
            )
            yield _table(points, columns)


def _table(rows: Sequence[Figures], columns: Sequence[Column]) -> str:
    lines = ["| " + " | ".join(heading for heading, _, _ in columns) + " |", "|" + " ---: |" * len(columns)]
    for row in rows:
        cells = [format(row[name], form) if name in row else "" for _, name, form in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
