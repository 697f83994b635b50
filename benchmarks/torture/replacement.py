"""Promise 8: ten rounds of replacing half the items leave every item within reach, and recall as it was.

Graphs of this kind lose points when others are replaced in place. Vectors and queries lie around the same centres, as
embeddings do; queries from anywhere, which no graph answers as well, are measured beside them, as figures. In turns
half the items get new vectors under their ids, or are deleted and others added. After each round, first at once and
then with the graph caught up, recall@10 is measured against a comparison with all vectors done here, and every item is
searched for by its own vector; in some rounds the collection is closed and opened between, so that the graph is that of
its snapshot.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.items import CollectionSpec, NewItem, SearchOptions
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage.store import FILE_NAME, Store

COUNT, DIMENSION, CLUSTERS, ROUNDS = 20_000, 64, 50, 10
LEAST_COUNT = 3500  # with fewer, comparing with all of them is taken for faster than a walk of the graph
QUERIES, TOP_K = 200, 10
LEAST_RECALL = 0.99
_BATCH, _SEARCHED_AT_ONCE = 1000, 256
_INDEXED_S = 600.0
# Growth can cut a point off, which the next audit notices: here one follows at once, and is waited for.
_OPTIONS = CollectionOptions(policy=IndexPolicy(audit_rest=0.0))


class Replaced:
    """A collection whose items are replaced, and what they are.

    Attributes:
        recalls: recall@10 with the graph caught up, by round; the first is before any replacement.
        recalls_at_once: the same right after the writes.
        recalls_elsewhere: as `recalls`, of queries from anywhere.
        unreachable: items that a search for their own vectors did not find, over all rounds.
    """

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        Store.create(folder / FILE_NAME, CollectionSpec("replaced", DIMENSION))
        self._folder = folder
        self._rng = np.random.default_rng(seed)
        self._centres = self._rng.normal(size=(CLUSTERS, DIMENSION))
        self._collection = Collection(folder, _OPTIONS)
        self._names = [f"i{number}" for number in range(count)]
        self._vectors = self._drawn(count)
        self._queries = self._drawn(QUERIES)
        self._elsewhere = self._rng.normal(size=(QUERIES, DIMENSION)).astype(np.float32)
        self._added = count
        self.recalls: list[float] = []
        self.recalls_at_once: list[float] = []
        self.recalls_elsewhere: list[float] = []
        self.unreachable = 0
        self._write(np.arange(count))
        self._measure()

    def round(self, number: int) -> None:
        """Replaces half the items."""
        places = self._rng.permutation(len(self._names))[: len(self._names) // 2]
        self._vectors[places] = self._drawn(len(places))
        if number % 2:
            self._collection.delete([self._names[place] for place in places.tolist()])
            for place in places.tolist():
                self._names[place] = f"i{self._added}"
                self._added += 1
        self._write(places)
        if number % 3 == 2:
            self._collection.close()
            self._collection = Collection(self._folder, _OPTIONS)
        self._measure()

    def close(self) -> None:
        """Closes the collection."""
        self._collection.close()

    def _drawn(self, count: int) -> np.ndarray:
        """Returns vectors around the collection's centres, `[count, dimension] float32`, of length 1."""
        points = self._centres[self._rng.integers(0, CLUSTERS, count)] + 0.7 * self._rng.normal(size=(count, DIMENSION))
        unit: np.ndarray = points / np.linalg.norm(points, axis=1, keepdims=True)
        return unit.astype(np.float32)

    def _write(self, places: np.ndarray) -> None:
        for first in range(0, len(places), _BATCH):
            part = places[first : first + _BATCH].tolist()
            self._collection.upsert([NewItem(self._names[place], self._vectors[place]) for place in part])

    def _measure(self) -> None:
        self.recalls_at_once.append(self._recall(self._queries))
        if not self._collection.wait_indexed(_INDEXED_S):
            raise RuntimeError(f"The graph did not catch up within {_INDEXED_S:.0f} s.")
        self.recalls.append(self._recall(self._queries))
        self.recalls_elsewhere.append(self._recall(self._elsewhere))
        for first in range(0, len(self._names), _SEARCHED_AT_ONCE):
            names = self._names[first : first + _SEARCHED_AT_ONCE]
            found = self._collection.search(self._vectors[first : first + len(names)], SearchOptions(1))
            self.unreachable += sum([one.id for one in line] != [name] for name, line in zip(names, found, strict=True))

    def _recall(self, queries: np.ndarray) -> float:
        similarities = queries.astype(np.float64) @ self._vectors.T.astype(np.float64)
        truth = np.argsort(-similarities, axis=1)[:, :TOP_K]
        found = self._collection.search(queries, SearchOptions(TOP_K))
        shares = [
            len({one.id for one in line} & {self._names[place] for place in right.tolist()}) / TOP_K
            for line, right in zip(found, truth, strict=True)
        ]
        return float(np.mean(shares))


def replaced(count: int, rounds: int, seed: int) -> Replaced:
    """Replaces half of `count` items `rounds` times."""
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder:
        shown = Replaced(Path(folder), count, seed)
        for number in range(rounds):
            shown.round(number)
        shown.close()
        return shown


def run(scale: Scale) -> Outcome:
    """Replaces half the items ten times."""
    count = scale.of(COUNT, at_least=LEAST_COUNT)
    shown = replaced(count, ROUNDS, scale.seed)
    failures = [
        f"recall@{TOP_K} is {recall:.4f} after {number} rounds"
        for recalls in (shown.recalls, shown.recalls_at_once)
        for number, recall in enumerate(recalls)
        if recall < LEAST_RECALL
    ]
    if shown.unreachable:
        failures.append(f"{shown.unreachable} searches for an item's own vector did not find it")
    figures: dict[str, Figure] = {
        "items": count,
        "rounds": ROUNDS,
        "least recall@10": round(min(shown.recalls), 4),
        "least right after writing": round(min(shown.recalls_at_once), 4),
        "recall@10 at first": round(shown.recalls[0], 4),
        "recall@10 at last": round(shown.recalls[-1], 4),
        "from anywhere, at first": round(shown.recalls_elsewhere[0], 4),
        "from anywhere, at last": round(shown.recalls_elsewhere[-1], 4),
        "unreachable": shown.unreachable,
    }
    return Outcome(count * (ROUNDS + 1), failures, figures)


PROMISE = Promise(8, "replacement", "recall@10 >= 0.99 and 0 unreachable items in 10 rounds", 10.0, run)
