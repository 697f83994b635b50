"""Recall against speed: a collection in this process, the same through the server, and hnswlib alone.

1. Vectors in clusters, and in random directions, are written to a collection in this process. Its folder is copied, and
   a server runs on the copy: both have the same graph. hnswlib builds its own with the same parameters.
2. For each width of the walk (`ef`) the recall of all queries is that against comparing with every vector.
3. Queries a second are measured in turns: one query a call, by a thread for each core and with many calls in flight at
   the server; and many queries a call, by one thread, and with two calls in flight at the server.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hnswlib
import numpy as np

from benchmarks import load
from benchmarks.extent import Extent
from benchmarks.filling import BATCH, PER_CLUSTER, clustered, normal
from benchmarks.ingest import built
from benchmarks.load import Load
from benchmarks.peers.searching import exact, recall
from benchmarks.serving import Served, server
from twinsight_client import Client
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection
from twinsight_core.items import CollectionSpec, NewItem, SearchOptions

DIMENSION = 256
QUERIES = 512
TOP_K = 10
MANY = 64
CORES = os.cpu_count() or 1
EFS = (10, 16, 32, 64, 96, 128, 256, 512)
COLLECTION = "bench"
INDEXED_WITHIN_S = 3600


def measure(extent: Extent) -> dict[str, object]:
    """Returns recall and queries a second by kind of vectors and `ef`."""
    count = extent.pick(100_000, 20_000)
    clusters = count // PER_CLUSTER
    made: dict[str, Callable[[], np.ndarray]] = {
        "clustered": lambda: clustered(count + QUERIES, DIMENSION, clusters=clusters, seed=1),
        "normal": lambda: normal(count + QUERIES, DIMENSION, seed=1),
    }
    kinds = {}
    for name, vectors in made.items():
        print(f"  {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            kinds[name] = list(_kind(vectors(), count, Path(folder), extent))
    return {
        "what": f"{count} x {DIMENSION}, cosine, top {TOP_K}, {QUERIES} queries: recall@{TOP_K}, and queries a second "
        f"with one query a call (in process by {CORES} threads, at the server {IN_FLIGHT['one']} calls in flight) and "
        f"with {MANY} (by one thread, {IN_FLIGHT['many']} calls in flight)",
        "count": count,
        "kinds": kinds,
    }


IN_FLIGHT = {"one": 16, "many": 2}


def _kind(vectors: np.ndarray, count: int, folder: Path, extent: Extent) -> Iterator[dict[str, object]]:
    items, queries = vectors[:count], vectors[count:]
    file = folder / "queries.npy"
    np.save(file, queries)
    nearest = exact(items, queries)
    here = folder / "here"
    _write(items, here)
    shutil.copytree(here, folder / "served")
    index = built(items)
    catalog = Catalog(here)
    try:
        with server(folder / "served") as served, Client(served.address) as client:
            subjects = (
                _Hnswlib(index, queries),
                _Here(catalog.get(COLLECTION), queries),
                _AtServer(served, client, file, queries),
            )
            for ef in extent.pick(EFS, EFS[1::3]):
                yield {"ef": ef, **{one.name: _point(one, ef, nearest, extent.pick(1.0, 0.5)) for one in subjects}}
    finally:
        catalog.close()


def _write(items: np.ndarray, data: Path) -> None:
    """Writes a collection, and leaves it closed, with its graph saved."""
    catalog = Catalog(data)
    try:
        collection = catalog.create(CollectionSpec(COLLECTION, DIMENSION))
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            collection.upsert([NewItem(f"{start + n}", one) for n, one in enumerate(part)])
        if not collection.wait_indexed(INDEXED_WITHIN_S):
            raise RuntimeError(f"The items were not indexed within {INDEXED_WITHIN_S} s.")
    finally:
        catalog.close()


def _point(subject: _Hnswlib | _Here | _AtServer, ef: int, nearest: np.ndarray, seconds: float) -> dict[str, float]:
    found = [[float(one) for one in mine] for mine in subject.found(ef)]
    return {"recall": round(recall(found, nearest), 4), **subject.rates(ef, seconds)}


@dataclass
class _Hnswlib:
    index: hnswlib.Index
    queries: np.ndarray
    name: str = "hnswlib"

    def found(self, ef: int) -> list[list[int]]:
        self.index.set_ef(ef)
        labels, _ = self.index.knn_query(self.queries, k=TOP_K, num_threads=CORES)
        rows: list[list[int]] = labels.tolist()
        return rows

    def rates(self, ef: int, seconds: float) -> dict[str, float]:
        self.index.set_ef(ef)

        def one(place: int) -> None:
            self.index.knn_query(self.queries[place], k=TOP_K, num_threads=1)

        def many(place: int) -> None:
            self.index.knn_query(_part(self.queries, place), k=TOP_K, num_threads=CORES)

        return _rates(one, many, seconds)


@dataclass
class _Here:
    collection: Collection
    queries: np.ndarray
    name: str = "collection"

    def found(self, ef: int) -> list[list[str]]:
        return [
            [match.id for match in one] for one in self.collection.search(self.queries, SearchOptions(TOP_K, ef=ef))
        ]

    def rates(self, ef: int, seconds: float) -> dict[str, float]:
        options = SearchOptions(TOP_K, ef=ef)
        return _rates(
            lambda place: self.collection.search(self.queries[place : place + 1], options),
            lambda place: self.collection.search(_part(self.queries, place), options),
            seconds,
        )


@dataclass
class _AtServer:
    served: Served
    client: Client
    file: Path
    queries: np.ndarray
    name: str = "server"

    def found(self, ef: int) -> list[list[str]]:
        answers = []
        for place in range(0, len(self.queries), MANY):
            asked = list(self.queries[place : place + MANY])
            answers += self.client.search(COLLECTION, asked, top_k=TOP_K, ef=ef, include_metadata=False).values()
        return [[match.id for match in one] for one in answers]

    def rates(self, ef: int, seconds: float) -> dict[str, float]:
        rates: dict[str, float] = {}
        for name, batch in (("one", 1), ("many", MANY)):
            sent = Load(
                "search", self.file, COLLECTION, batch=batch, concurrency=IN_FLIGHT[name], seconds=seconds, ef=ef
            )
            done = load.run(sent, self.served)
            rates |= {f"{name}_{figure}": done[figure] for figure in ("per_s", "load_cores", "server_cores")}
        return rates


def _part(queries: np.ndarray, place: int) -> np.ndarray:
    start = place * MANY % (len(queries) - MANY + 1)
    part: np.ndarray = queries[start : start + MANY]
    return part


def _rates(one: Callable[[int], object], many: Callable[[int], object], seconds: float) -> dict[str, float]:
    return {
        "one_per_s": _per_s(one, seconds, threads=CORES),
        "many_per_s": round(_per_s(many, seconds, threads=1) * MANY, 1),
    }


def _per_s(call: Callable[[int], object], seconds: float, *, threads: int) -> float:
    """Returns calls a second that so many threads make, each going through the queries from its own place on."""
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def run(thread: int) -> None:
        place = thread * QUERIES // threads
        while time.perf_counter() < end:
            call(place % QUERIES)
            place += 1
            counts[thread] += 1

    running = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    start = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return round(sum(counts) / (time.perf_counter() - start), 1)
