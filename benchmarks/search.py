"""What the server adds to a Search call, and what filters and metadata cost, over 100,000 vectors of 256 components.

The index's own time is that of hnswlib's `knn_query` in this process, over the same vectors, built and searched with
the same parameters, measured in turns with the calls. The vectors lie in clusters, as embeddings do. Searches under
different filters, and without one, are measured in turns too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import cycle
from pathlib import Path

import hnswlib
import numpy as np

from benchmarks.echo import echo
from benchmarks.extent import Extent
from benchmarks.filling import items_and_queries, wait_indexed
from benchmarks.ingest import built
from benchmarks.measure import interleaved_ms, median_of, summary
from benchmarks.serving import server
from benchmarks.targets import Target, at_least, at_most
from twinsight_client import Client, Filter, NewItem, field
from twinsight_core.collections.collection import CollectionOptions

CALLS = 400
DIMENSION = 256
QUERIES = 100
TOP_K = 10
BATCH = 500
NONE = "none"


def filters(count: int) -> dict[str, Filter | None]:
    """Returns the filters by the share of `count` items that meet them."""
    return {
        NONE: None,
        "50 %": field("n") < count // 2,
        "10 %": field("tenth") == 0,
        "1 %": field("hundredth") == 0,
        "0.1 %": field("thousandth") == 0,
    }


def measure(extent: Extent) -> dict[str, object]:
    """Returns the figures of Search by vector at concurrency 1, and of recall under filters."""
    count = extent.pick(100_000, 20_000)
    items, queries = items_and_queries(count, QUERIES, DIMENSION)
    index = built(items)
    index.set_ef(CollectionOptions().ef)
    with (
        tempfile.TemporaryDirectory() as data,
        server(Path(data)) as served,
        Client(served.address) as client,
        echo() as bare,
    ):
        client.create_collection("bench", dimension=DIMENSION)
        start = time.perf_counter()
        _fill(client, items)
        upsert_rate = count / (time.perf_counter() - start)
        wait_indexed(client, "bench")
        indexed_after_s = time.perf_counter() - start
        runs = [_overhead(client, index, queries, bare) for _ in range(extent.runs)]
        under = filters(count)
        recalls = {name: _recall(client, queries, where) for name, where in under.items()}
        filtered = [_filtered(client, queries, under) for _ in range(extent.runs)]
    return {
        "what": f"Search by vector, {count} x {DIMENSION}, cosine, top {TOP_K}, concurrency 1, {CALLS} calls a run",
        "count": count,
        "upserts_per_s": round(upsert_rate),
        "all_in_graph_after_s": round(indexed_after_s, 1),
        "runs": runs,
        "median": {name: median_of(runs, name) for name in runs[0]},
        "filters": {
            name: {"recall_at_10": recalls[name], **{figure: median_of(those, figure) for figure in those[0]}}
            for name in under
            for those in [[run[name] for run in filtered]]
        },
        "filter_runs": filtered,
        "targets": list(_targets(count, recalls, filtered)),
    }


def _targets(count: int, recalls: Mapping[str, float], runs: list[dict[str, dict[str, float]]]) -> Iterator[Target]:
    least = min((name for name in recalls if name != NONE), key=lambda name: recalls[name])
    yield at_least(0.98, f"Lowest recall@10 under filters, {count:,} x {DIMENSION} (at {least})", [recalls[least]])
    slowest = [max(one["p50_ms"] for name, one in run.items() if name != NONE) / run[NONE]["p50_ms"] for run in runs]
    yield at_most(2, f"p50 under the slowest filter / p50 without a filter, {count:,} x {DIMENSION}", slowest)


def _fill(client: Client, items: np.ndarray) -> None:
    for start in range(0, len(items), BATCH):
        client.upsert(
            "bench",
            [
                NewItem(f"i{n}", items[n], {"n": n, "tenth": n % 10, "hundredth": n % 100, "thousandth": n % 1000})
                for n in range(start, start + BATCH)
            ],
        ).values()


def _overhead(
    client: Client, index: hnswlib.Index, queries: np.ndarray, bare: Callable[[bytes], bytes]
) -> dict[str, float]:
    mine, theirs = cycle(queries), cycle(queries)
    times = interleaved_ms(
        {
            "call": lambda: _search(client, mine),
            "with_metadata": lambda: _search(client, mine, with_metadata=True),
            "index": lambda: index.knn_query(next(theirs), k=TOP_K, num_threads=1),
            "bare_grpc": lambda: bare(bytes(4 * DIMENSION)),
        },
        count=CALLS,
    )
    call, shown, raw, grpc = (summary(times[name]) for name in ("call", "with_metadata", "index", "bare_grpc"))
    return {
        "call_p50_ms": call["p50"],
        "call_p99_ms": call["p99"],
        "with_metadata_p50_ms": shown["p50"],
        "index_p50_ms": raw["p50"],
        "bare_grpc_p50_ms": grpc["p50"],
        "added_p50_ms": round(call["p50"] - raw["p50"], 3),
        "added_beyond_bare_grpc_p50_ms": round(call["p50"] - raw["p50"] - grpc["p50"], 3),
    }


def _search(
    client: Client, queries: Iterator[np.ndarray], where: Filter | None = None, *, with_metadata: bool = False
) -> object:
    return client.search("bench", [next(queries)], top_k=TOP_K, where=where, include_metadata=with_metadata)


def _filtered(client: Client, queries: np.ndarray, under: Mapping[str, Filter | None]) -> dict[str, dict[str, float]]:
    one_by_one = cycle(queries)
    works = {name: partial(_search, client, one_by_one, where) for name, where in under.items()}
    times = interleaved_ms(works, count=2 * len(queries))
    return {
        name: {f"{figure}_ms": value for figure, value in summary(one).items() if figure != "p95"}
        for name, one in times.items()
    }


def _recall(client: Client, queries: np.ndarray, where: Filter | None) -> float:
    found = client.search("bench", list(queries), top_k=TOP_K, where=where).values()
    right = client.search("bench", list(queries), top_k=TOP_K, where=where, exact=True).values()
    shares = [len({m.id for m in f} & {m.id for m in r}) / len(r) for f, r in zip(found, right, strict=True)]
    return round(float(np.mean(shares)), 4)
