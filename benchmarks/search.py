"""What the server adds to a Search call, and what filters cost, over 20,000 vectors of 256 components.

The index's own time is that of hnswlib's `knn_query` in this process, over the same vectors, built and searched with
the same parameters, measured in turns with the calls. The vectors lie in clusters, as embeddings do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import hnswlib
import numpy as np

from benchmarks.echo import echo
from benchmarks.measure import interleaved_ms, median_of, summary, times_ms
from benchmarks.serving import server
from twinsight_client import Client, Filter, NewItem, field
from twinsight_core.collection import CollectionOptions

RUNS = 5
CALLS = 400
COUNT, DIMENSION, CLUSTERS = 20_000, 256, 200
QUERIES = 100
TOP_K = 10
BATCH = 500
INDEXED_WITHIN_S = 300
FILTERS: dict[str, Filter | None] = {
    "none": None,
    "50 %": field("n") < COUNT // 2,
    "10 %": field("tenth") == 0,
    "1 %": field("hundredth") == 0,
    "0.1 %": field("thousandth") == 0,
}


def clustered(count: int, dimension: int, *, clusters: int, seed: int) -> np.ndarray:
    """Returns [count, dimension] float32 vectors of length 1 around random centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dimension))
    points = centres[rng.integers(0, clusters, count)] + 0.7 * rng.normal(size=(count, dimension))
    unit: np.ndarray = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit.astype(np.float32)


def measure() -> dict[str, object]:
    """Returns the figures of Search by vector at concurrency 1, and of recall under filters."""
    vectors = clustered(COUNT + QUERIES, DIMENSION, clusters=CLUSTERS, seed=1)
    items, queries = vectors[:COUNT], vectors[COUNT:]
    index = _raw_index(items)
    with (
        tempfile.TemporaryDirectory() as data,
        server(Path(data)) as served,
        Client(served.address) as client,
        echo() as bare,
    ):
        client.create_collection("bench", dimension=DIMENSION)
        start = time.perf_counter()
        _fill(client, items)
        upsert_rate = COUNT / (time.perf_counter() - start)
        indexed_after_s = _wait_indexed(client, start)
        runs = [_overhead(client, index, queries, bare) for _ in range(RUNS)]
        filters = {name: _filtered(client, queries, where) for name, where in FILTERS.items()}
    return {
        "what": f"Search by vector, {COUNT} x {DIMENSION}, cosine, top {TOP_K}, concurrency 1, {CALLS} calls a run",
        "upserts_per_s": round(upsert_rate),
        "all_in_graph_after_s": round(indexed_after_s, 1),
        "runs": runs,
        "median": {name: median_of(runs, name) for name in runs[0]},
        "filters": filters,
    }


def _raw_index(items: np.ndarray) -> hnswlib.Index:
    options = CollectionOptions()
    index = hnswlib.Index(space="ip", dim=DIMENSION)
    index.init_index(COUNT, M=options.graph.links, ef_construction=options.graph.build_width)
    index.add_items(items, num_threads=options.graph.threads)
    index.set_ef(options.ef)
    return index


def _fill(client: Client, items: np.ndarray) -> None:
    for start in range(0, COUNT, BATCH):
        client.upsert(
            "bench",
            [
                NewItem(f"i{n}", items[n], {"n": n, "tenth": n % 10, "hundredth": n % 100, "thousandth": n % 1000})
                for n in range(start, start + BATCH)
            ],
        ).values()


def _wait_indexed(client: Client, start: float) -> float:
    while client.get_collection("bench").indexed_count < COUNT:
        if time.perf_counter() - start > INDEXED_WITHIN_S:
            raise RuntimeError(f"The items were not indexed within {INDEXED_WITHIN_S} s.")
        time.sleep(0.1)
    return time.perf_counter() - start


def _overhead(
    client: Client, index: hnswlib.Index, queries: np.ndarray, bare: Callable[[bytes], bytes]
) -> dict[str, float]:
    mine, theirs = cycle(queries), cycle(queries)
    times = interleaved_ms(
        {
            "call": lambda: _search(client, mine),
            "index": lambda: index.knn_query(next(theirs), k=TOP_K, num_threads=1),
            "bare_grpc": lambda: bare(bytes(4 * DIMENSION)),
        },
        count=CALLS,
    )
    call, raw, grpc = (summary(times[name]) for name in ("call", "index", "bare_grpc"))
    return {
        "call_p50_ms": call["p50"],
        "call_p99_ms": call["p99"],
        "index_p50_ms": raw["p50"],
        "bare_grpc_p50_ms": grpc["p50"],
        "added_p50_ms": round(call["p50"] - raw["p50"], 3),
        "added_beyond_bare_grpc_p50_ms": round(call["p50"] - raw["p50"] - grpc["p50"], 3),
    }


def _search(client: Client, queries: Iterator[np.ndarray], where: Filter | None = None) -> object:
    return client.search("bench", [next(queries)], top_k=TOP_K, where=where, include_metadata=False)


def _filtered(client: Client, queries: np.ndarray, where: Filter | None) -> dict[str, float]:
    one_by_one = cycle(queries)
    times = summary(times_ms(lambda: _search(client, one_by_one, where), count=len(queries) * 2))
    found = client.search("bench", list(queries), top_k=TOP_K, where=where).values()
    right = client.search("bench", list(queries), top_k=TOP_K, where=where, exact=True).values()
    shares = [len({m.id for m in f} & {m.id for m in r}) / len(r) for f, r in zip(found, right, strict=True)]
    return {"recall_at_10": round(float(np.mean(shares)), 4), "p50_ms": times["p50"], "p99_ms": times["p99"]}
