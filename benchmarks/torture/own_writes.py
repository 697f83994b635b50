"""Promise 6: what a client has written it finds at once, however many write beside it.

Clients of a real server, each with a channel of its own, write an item and search for its vector; every second write
replaces one of their own, whose new contents must then be found. The graph is built and grows meanwhile.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.serving import server
from benchmarks.torture.promise import Outcome, Promise, Scale
from twinsight_client import Client, NewItem

CLIENTS, WRITES = 8, 10_000
DIMENSION = 32
FLAGS = ("--models", "base", "--batch-size", "1")


def written_and_found(address: str, collection: str, writes: int, seed: int) -> list[str]:
    """Writes and searches with eight clients; returns what was not found."""
    with Client(address) as client:
        client.create_collection(collection, dimension=DIMENSION)
    work = partial(_work, address, collection, writes // CLIENTS, seed)
    with ThreadPoolExecutor(CLIENTS) as pool:
        return [what for found in pool.map(work, range(CLIENTS)) for what in found]


def _work(address: str, collection: str, writes: int, seed: int, number: int) -> Sequence[str]:
    rng = random.Random(CLIENTS * seed + number)
    vectors = np.random.default_rng([seed, number]).normal(size=(writes, DIMENSION)).astype(np.float32)
    missed: list[str] = []
    with Client(address) as client:
        for write, vector in enumerate(vectors):
            item = f"c{number}-{rng.randrange(write) if write % 2 else write}"
            client.upsert(collection, [NewItem(item, vector, {"write": write})]).values()
            ((first, *_),) = client.search(collection, [vector], top_k=2).values()
            if (first.id, first.metadata) != (item, {"write": write}):
                missed.append(f"client {number}, write {write}: searched {item} and found {first.id} {first.metadata}")
    return missed


def run(scale: Scale) -> Outcome:
    """Writes and searches on a server of its own."""
    writes = scale.of(WRITES, at_least=CLIENTS) // CLIENTS * CLIENTS
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as data, server(Path(data), *FLAGS) as served:
        missed = written_and_found(served.address, "own-writes", writes, scale.seed)
    return Outcome(writes, missed, {"clients": CLIENTS, "found": writes - len(missed)})


PROMISE = Promise(6, "own-writes", "10,000 of 10,000 found", 2.0, run)
