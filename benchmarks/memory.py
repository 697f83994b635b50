"""What a collection of vectors takes of memory and of the time to start, beside a server without it.

    python -m benchmarks --only memory
    python -m benchmarks.memory [--count N] [--runs N]    prints the same for a number of vectors of one's own

Both servers are started in turns, on the same cache of compiled programs. The memory that cannot be avoided is that of
the vectors in float32, which the graph has, and of hnswlib's links between them. What exact searches scan lies in a
file (`--vectors-on-disk`), as the vectors or as a copy in int8 (`--vector-copy`), or, for comparison, in memory. Memory
is read after searches of both kinds, of the server that wrote the vectors once it has audited and saved their graph.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import load
from benchmarks.extent import Extent
from benchmarks.filling import items_and_queries
from benchmarks.ingest import built
from benchmarks.load import Load
from benchmarks.measure import medians
from benchmarks.processors import memory_mib, wait_at_rest
from benchmarks.serving import server
from benchmarks.targets import at_most
from twinsight_client import Client

DIMENSION = 256
QUERIES = 200
"""Searched for before memory is read, so that what a search needs is there too."""
EXACT_QUERIES = 5
SMALL, LARGE, IN_MEMORY, INT8, INT8_IN_MEMORY = "small", "large", "in_memory", "int8", "int8_in_memory"
ON_DISK = "--vectors-on-disk"
AS_INT8 = ("--vector-copy", "int8")


def measure(extent: Extent) -> dict[str, object]:
    """Returns memory and start of a server, empty and with the collection."""
    return measured(extent.pick(100_000, 20_000), extent.runs)


def measured(count: int, times: int) -> dict[str, object]:
    """Returns the same for a number of vectors, of so many starts of each kind."""
    items, queries = items_and_queries(count, QUERIES, DIMENSION)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "vectors.npy"
        np.save(file, items)
        empty, full = folder / "empty", folder / "full"
        with server(empty) as served, Client(served.address) as client:
            client.create_collection(SMALL, dimension=DIMENSION)
            _search(client, SMALL, queries)
            before = memory_mib(served.pid)
        with server(full, ON_DISK) as served, Client(served.address) as client:
            client.create_collection(LARGE, dimension=DIMENSION)
            load.run(Load("ingest_vectors", file, collection=LARGE), served)
            wait_at_rest(served.pid)
            _search(client, LARGE, queries)
            written = _above(memory_mib(served.pid), before)
        runs = [
            {
                **_started(empty, SMALL, queries),
                **_started(full, LARGE, queries, ON_DISK),
                **_started(full, LARGE, queries, name=IN_MEMORY),
                **_started(full, LARGE, queries, ON_DISK, *AS_INT8, name=INT8),
                **_started(full, LARGE, queries, *AS_INT8, name=INT8_IN_MEMORY),
            }
            for _ in range(times)
        ]
    for run in runs:
        for kind in ("rss", "pss", "private"):
            for name in (LARGE, IN_MEMORY, INT8, INT8_IN_MEMORY):
                run[f"{name}_above_{kind}_mib"] = round(run[f"{name}_{kind}_mib"] - run[f"{SMALL}_{kind}_mib"], 2)
    vectors_mib, links_mib = items.nbytes / 2**20, _links_bytes(items) / 2**20
    needed = vectors_mib + links_mib
    size = f"{count:,} x {DIMENSION}"
    return {
        "what": f"A server with {count} x {DIMENSION} vectors beside one with none, all shipped models, warm cache",
        "vectors_mib": round(vectors_mib, 2),
        "links_mib": round(links_mib, 2),
        "above_when_written_mib": written,
        "runs": runs,
        "median": medians(runs),
        "targets": [
            at_most(
                1.35,
                f"Resident memory of {size} after a start, vectors on disk / vectors and links",
                [run[f"{LARGE}_above_rss_mib"] / needed for run in runs],
            ),
            at_most(
                1.35,
                f"Resident memory of {size} in the server that wrote it, vectors on disk / vectors and links",
                [written["rss"] / needed],
            ),
            at_most(
                1.35,
                f"Resident memory of {size} after a start, vectors and int8 copy on disk / vectors and links",
                [run[f"{INT8}_above_rss_mib"] / needed for run in runs],
            ),
            at_most(
                2.0,
                f"Start with {size} - start of an empty server",
                [run[f"{LARGE}_start_s"] - run[f"{SMALL}_start_s"] for run in runs],
                unit="s",
            ),
        ],
    }


def _started(data: Path, collection: str, queries: np.ndarray, *flags: str, name: str = "") -> dict[str, float]:
    """Returns start and memory of a server, under a name: the collection's, if none is given."""
    name = name or collection
    with server(data, *flags) as served, Client(served.address) as client:
        _search(client, collection, queries)
        memory = {f"{name}_{kind}_mib": value for kind, value in memory_mib(served.pid).items()}
        return {f"{name}_start_s": round(served.start_s, 2), **memory}


def _search(client: Client, collection: str, queries: np.ndarray) -> None:
    for query in queries:
        client.search(collection, [query]).values()
    for query in queries[:EXACT_QUERIES]:
        client.search(collection, [query], exact=True).values()


def _above(now: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: round(now[name] - before[name], 2) for name in now}


def _links_bytes(items: np.ndarray) -> int:
    # How many links there is room for does not depend on how well they are chosen.
    size: int = built(items, build_width=1).index_file_size()
    return size - items.nbytes


def main(arguments: list[str]) -> int:
    """Prints what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="Memory of a collection.")
    parser.add_argument("--count", type=int, default=100_000, help="vectors [%(default)s]")
    parser.add_argument("--runs", type=int, default=1, help="starts of each kind [%(default)s]")
    asked = parser.parse_args(arguments)
    print(json.dumps(measured(asked.count, asked.runs), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
