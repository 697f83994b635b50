"""Writes and purges until it is killed, and tells what was acknowledged.

Told are `opening`, then `begin N` before the purge of batch N and `done N` after it has returned. Batch N writes items
`p<N>-<i>`, writes the first of them anew, and purges that one, by its id or by a filter: nothing else is purged.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.filters import Equals
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.items import NewItem
from twinsight_core.search.index_policy import IndexPolicy

DIMENSION, SIZE, VERSIONS = 32, 40, 2
# So few that graphs and snapshots are written all the time.
OPTIONS = CollectionOptions(
    graph=GraphParameters(links=8, build_width=40),
    policy=IndexPolicy(graph_from=100, patience=30, snapshot_share=0.05, purge_rest=0.0),
    ef=16,
)
_MOST_RUNS = 1_000_000  # batches of one run; all numbers have as many digits


def write(lines: Connection, folder: str, run: int) -> None:
    """Writes and purges for ever.

    Args:
        lines: takes what is told.
        folder: of the collection.
        run: number of this run, from 1 to 9.
    """
    lines.send_bytes(b"opening")
    collection = Collection(Path(folder), OPTIONS)
    for batch in range(_MOST_RUNS * run, _MOST_RUNS * (run + 1)):
        collection.upsert([item(f"p{batch}-{n}", 0) for n in range(SIZE)])
        doomed = doomed_of(batch)
        collection.upsert([item(doomed, 1)])
        lines.send_bytes(f"begin {batch}".encode())
        if batch % 3:
            collection.delete([doomed], purge=True)
        else:
            collection.delete_where(Equals("word", f"secret-{doomed}"), purge=True)
        lines.send_bytes(f"done {batch}".encode())


def doomed_of(batch: int) -> str:
    """Returns the item of a batch that is purged."""
    return f"p{batch}-0"


def vector_of(name: str, version: int) -> np.ndarray:
    """Returns the vector of an item's version, `[dimension] float32`."""
    return np.random.default_rng([version, *name.encode()]).normal(size=DIMENSION).astype(np.float32)


def item(name: str, version: int) -> NewItem:
    """Returns a version of an item."""
    return NewItem(name, vector_of(name, version), {"word": f"secret-{name}", "version": version})
