"""How the cost of a call grows: of Search with load, collection, dimension and batch, of Embed with the batch.

Each point is the latency of one call at a time, and the rate with many in flight. How Embed grows with load is in
`throughput`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import load
from benchmarks.embed import photograph
from benchmarks.extent import Extent
from benchmarks.filling import fill, items_and_queries
from benchmarks.load import Load
from benchmarks.serving import Served, server
from twinsight_client import Client

CONCURRENCIES = (1, 2, 4, 8, 16, 32)
COUNTS, MILLION = (1_000, 10_000, 100_000), 1_000_000
DIMENSIONS = (64, 128, 256, 512, 1024)
BATCHES = (1, 4, 16, 64)
USUAL_COUNT, USUAL_DIMENSION = 10_000, 256
QUERIES = 512
IN_FLIGHT = 16
ITEMS_IN_FLIGHT = 64
"""With more than a query or picture in a call: so many calls that they are of at least this many together, and two."""


def measure(extent: Extent) -> dict[str, object]:
    """Returns latency and rate of Search and Embed by what grows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with server(folder / "data") as served, Client(served.address) as client:
            at = _Measuring(folder, served, client, extent.pick(2.0, 0.5))
            counts = (*extent.pick(COUNTS, COUNTS[:2]), *((MILLION,) if extent.million else ()))
            search = {
                "collection": list(at.by_count(counts)),
                "dimension": list(at.by_dimension(extent.pick(DIMENSIONS, DIMENSIONS[::2]))),
                "concurrency": list(at.by_concurrency(extent.pick(CONCURRENCIES, CONCURRENCIES[::3]))),
                "batch": list(at.by_batch(extent.pick(BATCHES, BATCHES[::2]))),
            }
            embed = {"batch": list(at.embed_by_batch(extent.pick(BATCHES, BATCHES[::2])))}
    return {
        "what": f"Search by vector, {USUAL_COUNT} x {USUAL_DIMENSION}, cosine, top {load.TOP_K}, one query a call, and "
        f"Embed of JPEGs of 500x375, unless stated otherwise: p50 with one call at a time, and queries or "
        f"pictures a second with {IN_FLIGHT} calls in flight",
        "search": search,
        "embed": embed,
    }


class _Measuring:
    def __init__(self, folder: Path, served: Served, client: Client, seconds: float) -> None:
        self._folder = folder
        self._served = served
        self._client = client
        self._seconds = seconds
        self._filled: dict[str, Path] = {}

    def by_count(self, counts: tuple[int, ...]) -> Iterator[dict[str, float]]:
        for count in counts:
            yield {"count": count, **self._searched(count, USUAL_DIMENSION)}

    def by_dimension(self, dimensions: tuple[int, ...]) -> Iterator[dict[str, float]]:
        for dimension in dimensions:
            yield {"dimension": dimension, **self._searched(USUAL_COUNT, dimension)}

    def by_concurrency(self, concurrencies: tuple[int, ...]) -> Iterator[dict[str, float]]:
        for concurrency in concurrencies:
            done = self._search(USUAL_COUNT, USUAL_DIMENSION, concurrency=concurrency)
            yield {"concurrency": concurrency, **_kept(done, "p50_ms", "p99_ms", "per_s"), **_cores(done)}

    def by_batch(self, batches: tuple[int, ...]) -> Iterator[dict[str, float]]:
        for batch in batches:
            alone = self._search(USUAL_COUNT, USUAL_DIMENSION, batch=batch)
            busy = self._search(USUAL_COUNT, USUAL_DIMENSION, batch=batch, concurrency=_calls(batch))
            yield {"batch": batch, **_both(alone, busy)}

    def embed_by_batch(self, batches: tuple[int, ...]) -> Iterator[dict[str, float]]:
        jpeg = self._folder / "photograph.jpg"
        jpeg.write_bytes(photograph())
        for batch in batches:
            alone = self._run(Load("embed", jpeg, batch=batch, seconds=self._seconds))
            busy = self._run(Load("embed", jpeg, batch=batch, concurrency=_calls(batch), seconds=self._seconds))
            yield {"batch": batch, **_both(alone, busy)}

    def _searched(self, count: int, dimension: int) -> dict[str, float]:
        alone = self._search(count, dimension)
        return _both(alone, self._search(count, dimension, concurrency=IN_FLIGHT))

    def _search(self, count: int, dimension: int, *, batch: int = 1, concurrency: int = 1) -> dict[str, float]:
        collection = f"{count}x{dimension}"
        if collection not in self._filled:
            items, queries = items_and_queries(count, QUERIES, dimension)
            fill(self._client, collection, items)
            self._filled[collection] = self._folder / f"{collection}.npy"
            np.save(self._filled[collection], queries)
        file = self._filled[collection]
        return self._run(Load("search", file, collection, batch=batch, concurrency=concurrency, seconds=self._seconds))

    def _run(self, sent: Load) -> dict[str, float]:
        return load.run(sent, self._served)


def _calls(batch: int) -> int:
    return min(max(ITEMS_IN_FLIGHT // batch, 2), IN_FLIGHT)


def _both(alone: dict[str, float], busy: dict[str, float]) -> dict[str, float]:
    """Returns the latency of one call at a time, and the rate of many."""
    return {**_kept(alone, "p50_ms", "p99_ms"), **_kept(busy, "per_s"), **_cores(busy)}


def _cores(done: dict[str, float]) -> dict[str, float]:
    return _kept(done, "load_cores", "server_cores")


def _kept(done: dict[str, float], *names: str) -> dict[str, float]:
    return {name: done[name] for name in names}
