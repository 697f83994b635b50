"""What a client of a collection was told, and what may therefore be there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from twinsight_core.collections.collection import Collection
from twinsight_core.items import Checkpoint, NewItem, SearchOptions

Versions = Mapping[str, int]
"""Version by id of the items that are there."""

INGEST = "job"


def vector_of(name: str, version: int, dimension: int) -> np.ndarray:
    """Returns the vector that a version gives an item, `[dimension] float32`."""
    return np.random.default_rng([version, *name.encode()]).normal(size=dimension).astype(np.float32)


class History:
    """The writes of one client that waits for each answer.

    Attributes:
        known: what was acknowledged.
        maybe: what is there if the write that was not answered was done; None: all were answered.
        batch: last batch that was acknowledged, of the ingest `INGEST`.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.known: dict[str, int] = {}
        self.maybe: dict[str, int] | None = None
        self.batch = 0
        self.writes = 0

    def upsert(self, collection: Collection, names: Sequence[str], version: int) -> None:
        """Writes items as the next batch."""
        items = [NewItem(name, vector_of(name, version, self.dimension), {"version": version}) for name in names]
        self._write(
            self.known | dict.fromkeys(names, version),
            lambda: collection.upsert(items, checkpoint=Checkpoint(INGEST, version)),
        )
        self.batch = version

    def delete(self, collection: Collection, names: Sequence[str]) -> None:
        """Deletes items."""
        self._write(
            {name: version for name, version in self.known.items() if name not in names},
            lambda: collection.delete(names),
        )

    def _write(self, after: dict[str, int], write: Callable[[], object]) -> None:
        self.maybe = after
        write()
        self.known, self.maybe = after, None
        self.writes += 1

    def flaw(self, collection: Collection) -> str:
        """Returns what in a collection contradicts the history; empty: nothing does."""
        there = versions_of(collection, self.dimension)
        if isinstance(there, str):
            return there
        if there not in (self.known, self.maybe):
            return f"{_difference(there, self.known)}; {len(self.known)} items were acknowledged"
        batch = collection.last_batch(INGEST)
        if there == self.known and self.maybe is None and batch != self.batch:
            return f"batch {batch} is on record, and {self.batch} was acknowledged"
        if batch < self.batch:
            return f"batch {self.batch} was acknowledged, and {batch} is on record"
        return searched_flaw(collection, there, self.dimension)


def versions_of(collection: Collection, dimension: int) -> dict[str, int] | str:
    """Returns all that a collection holds, or what is wrong with it."""
    there: dict[str, int] = {}
    after: str | None = ""
    while after is not None:
        page, after = collection.page(after=after, limit=1000, include_vectors=True)
        for item in page:
            version = item.metadata["version"]
            if not isinstance(version, int) or item.vector is None:
                return f"item {item.id} has no version"
            if not np.array_equal(item.vector, vector_of(item.id, version, dimension)):
                return f"item {item.id} has another vector than version {version} gave it"
            there[item.id] = version
    if len(there) != collection.status().item_count:
        return f"{len(there)} items can be read of {collection.status().item_count}"
    return there


def searched_flaw(collection: Collection, there: Versions, dimension: int, *, most: int = 50) -> str:
    """Returns which of some items a search for their own vectors does not find first; empty: it finds all."""
    names = sorted(there)[:: max(1, len(there) // most)]
    if not names:
        return ""
    queries = np.stack([vector_of(name, there[name], dimension) for name in names])
    for exact in (True, False):
        found = collection.search(queries, SearchOptions(1, exact=exact))
        lost = [name for name, matches in zip(names, found, strict=True) if [one.id for one in matches] != [name]]
        if lost:
            return f"a search (exact: {exact}) does not find {lost[0]} and {len(lost) - 1} more"
    return ""


def _difference(there: Versions, known: Versions) -> str:
    lost = [name for name, version in known.items() if there.get(name) != version]
    returned = [name for name in there if name not in known]
    return f"lost or changed: {lost[:3]} ({len(lost)}), not acknowledged but there: {returned[:3]} ({len(returned)})"
