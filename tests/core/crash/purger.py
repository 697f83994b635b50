"""Writes and purges until it is killed, and says on stdout what was acknowledged.

Run as `python purger.py FOLDER RUN`. Batch N writes items `p<N>-<i>` and purges the first of them, which is all that is
purged; `begin N` is said before the purge, `done N` after.
"""

import sys
from pathlib import Path

import numpy as np

from twinsight_core.collection import Collection, CollectionOptions
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.indexer import IndexPolicy
from twinsight_core.items import NewItem

DIMENSION, SIZE = 32, 40
# So few that graphs and snapshots are written all the time.
OPTIONS = CollectionOptions(
    graph=GraphParameters(links=8, build_width=40),
    policy=IndexPolicy(graph_from=100, patience=30, snapshot_share=0.05, purge_rest=0.0),
    ef=16,
)


def vector_of(name: str) -> np.ndarray:
    """Returns an item's vector."""
    return np.random.default_rng([*name.encode()]).normal(size=DIMENSION).astype(np.float32)


def main(folder: Path, run: int) -> None:
    collection = Collection(folder, OPTIONS)
    for batch in range(1_000_000 * run, 1_000_000 * (run + 1)):
        names = [f"p{batch}-{i}" for i in range(SIZE)]
        collection.upsert([NewItem(name, vector_of(name), {"word": f"secret-{name}"}) for name in names])
        sys.stdout.write(f"begin {batch}\n")
        sys.stdout.flush()
        collection.delete(names[:1], purge=True)
        sys.stdout.write(f"done {batch}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
