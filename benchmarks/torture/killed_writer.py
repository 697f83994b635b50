"""Writes to a collection until it is killed, and tells what was acknowledged.

Told are `opening`, then `begin N KIND BATCH` before each write and `done N` after it has returned. Batch N writes items
`b<N>-<i>` with `{"batch": N, "own": N}` and replaces `shared-<thread>-<i>`, with the vectors that `vector_of` makes, as
batch N of its thread's ingest. It is deleted by ids or by a filter. Two threads write, so that groups form.
"""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.filters import Equals
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.items import Checkpoint, NewItem
from twinsight_core.metadata import Metadata
from twinsight_core.sealing.keyring import Key, Keyring
from twinsight_core.search.index_policy import IndexPolicy

THREADS = 2
DIMENSION = 8
# Opens the collections that are encrypted with it, and the others.
KEYRING = Keyring(Key(bytes(range(32)), datetime(2026, 3, 1, tzinfo=UTC)))
# So few that graphs, rebuilds and snapshots happen all the time.
OPTIONS = CollectionOptions(
    graph=GraphParameters(links=8, build_width=40),
    policy=IndexPolicy(graph_from=100, patience=30, snapshot_share=0.05, audit_width=8),
    ef=16,
    keyring=KEYRING,
    allow_plain=True,
)
_MOST_RUNS = 1_000_000  # batches of one run; a run's numbers are above those of all before


def write(lines: Connection, folder: str, run: int, seed: int) -> None:
    """Writes for ever.

    Args:
        lines: takes what is told.
        folder: of the collection.
        run: number of this run, rising.
        seed: chooses what is written.
    """
    lines.send_bytes(b"opening")
    collection = Collection(Path(folder), OPTIONS)
    telling = threading.Lock()

    def tell(line: str) -> None:
        with telling:
            lines.send_bytes(line.encode())

    def work(thread: int) -> None:
        rng = random.Random(THREADS * (1000 * seed + run) + thread)
        written: list[int] = []
        number = _MOST_RUNS * run + thread
        while True:
            number += THREADS
            if written and rng.random() < 0.3:
                gone = written.pop(rng.randrange(len(written)))
                tell(f"begin {number} delete {gone}")
                if rng.random() < 0.5:
                    collection.delete(own_names(gone))
                else:
                    collection.delete_where(Equals("own", gone))
            else:
                tell(f"begin {number} upsert {number}")
                collection.upsert(
                    [NewItem(name, vector_of(name, number), metadata_of(name, number)) for name in names_of(number)],
                    checkpoint=Checkpoint(ingest_of(thread), number),
                )
                written.append(number)
            tell(f"done {number}")

    threads = [threading.Thread(target=work, args=(thread,), daemon=True) for thread in range(THREADS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def thread_of(number: int) -> int:
    """Returns the thread of a request or batch."""
    return number % THREADS


def ingest_of(thread: int) -> str:
    """Returns the id of a thread's ingest."""
    return f"writer-{thread}"


def own_names(batch: int) -> list[str]:
    """Returns the items that only this batch writes."""
    return [f"b{batch}-{i}" for i in range(batch * 7 % 40 + 1)]


def names_of(batch: int) -> list[str]:
    """Returns the items of a batch: its own, and those that every batch of its thread replaces."""
    return own_names(batch) + [f"shared-{thread_of(batch)}-{i}" for i in range(5)]


def metadata_of(name: str, batch: int) -> Metadata:
    """Returns the metadata that a batch gives an item."""
    return {"batch": batch, "own": batch} if name.startswith("b") else {"batch": batch}


def vector_of(name: str, batch: int) -> np.ndarray:
    """Returns the vector that a batch gives an item, `[dimension] float32`."""
    return np.random.default_rng([batch, *name.encode()]).normal(size=DIMENSION).astype(np.float32)
