"""Writes to a collection until it is killed, and says on stdout what was acknowledged.

Run as `python writer.py FOLDER SEED`. Each line is written after the write it names has returned:
`begin N upsert|delete FIRST COUNT` before, `done N` after. Batch N writes items `b<N>-<i>` with `{"batch": N}`, and
replaces `shared-<i>`, with the vectors that `vector_of` makes. Two threads write, so that groups form.
"""

import random
import sys
import threading
from pathlib import Path

import numpy as np

from twinsight_core.collection import Collection, CollectionOptions
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.indexer import IndexPolicy
from twinsight_core.items import NewItem

DIMENSION = 8
# So few that graphs, rebuilds and snapshots happen all the time.
OPTIONS = CollectionOptions(
    graph=GraphParameters(links=8, build_width=40),
    policy=IndexPolicy(graph_from=100, patience=30, snapshot_share=0.05, audit_width=8),
    ef=16,
)


def vector_of(name: str, batch: int) -> np.ndarray:
    """Returns the vector that a batch gives an item."""
    return np.random.default_rng([batch, *name.encode()]).normal(size=DIMENSION).astype(np.float32)


def main(folder: Path, seed: int) -> None:
    collection = Collection(folder, OPTIONS)
    say = threading.Lock()

    def tell(line: str) -> None:
        with say:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def work(thread: int) -> None:
        rng = random.Random(1000 * seed + thread)
        written: list[int] = []
        number = 1_000_000 * seed + thread
        while True:
            number += 2
            if written and rng.random() < 0.3:
                gone = written.pop(rng.randrange(len(written)))
                names = [name for name in names_of(gone, thread) if not name.startswith("shared")]
                tell(f"begin {number} delete {gone}")
                collection.delete(names)
            else:
                tell(f"begin {number} upsert {number}")
                names = names_of(number, thread)
                collection.upsert([NewItem(name, vector_of(name, number), {"batch": number}) for name in names])
                written.append(number)
            tell(f"done {number}")

    threads = [threading.Thread(target=work, args=(thread,), daemon=True) for thread in (0, 1)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def names_of(batch: int, thread: int) -> list[str]:
    """Returns the items of a batch: its own, and those that every batch of its thread replaces."""
    own = [f"b{batch}-{i}" for i in range(batch * 7 % 40 + 1)]
    return own + [f"shared-{thread}-{i}" for i in range(5)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
