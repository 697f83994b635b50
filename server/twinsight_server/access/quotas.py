"""Limits what is stored: collections, also by the open files that they need, and items per collection."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import LimitReached
from twinsight_core.host.open_files import open_files
from twinsight_server.access.principals import Principal, Share

# Between two looks at whether a write that waits for others is still wanted.
_LOOK_S = 0.1


class Quotas:
    """Limits on what is stored; 0: no limit. They hold exactly under concurrent writes. May be used from any thread.

    Args:
        catalog: counts the collections.
        collections: collections on the server.
        collections_each: a caller that may `admin` this many collections, whoever created them, can't create another;
            applies if its key has no limit of its own.
        items: items per collection.
    """

    def __init__(self, catalog: Catalog, *, collections: int, collections_each: int, items: int) -> None:
        self._catalog = catalog
        self._collections = collections
        self._each = Share(max_collections=collections_each)
        self._items = items
        self._creating = threading.Lock()
        self._reserving = threading.Condition()
        self._reserved: Counter[str] = Counter()

    @contextmanager
    def creating(self, name: str, caller: Principal) -> Iterator[None]:
        """Checks the limits and holds a lock while a caller creates a collection; an existing one is not limited.

        Raises:
            LimitReached: the server or the caller has as many as allowed, or its files would be taken from connections.
        """
        with self._creating:
            names = [one for one, _ in self._catalog.list()]
            if name not in names:
                self._check_share(names, caller)
                _check_files()
            yield

    def check_room(self, collection: Collection, ids: Sequence[str]) -> None:
        """Checks, before any work is done for items, that at least one of them may be written.

        Args:
            collection: where to write.
            ids: ids of the items that would be new, valid or not; empty: nothing is checked.

        Raises:
            LimitReached: the collection is full, and has none of them.
        """
        if not self._items or not ids or collection.status().item_count < self._items:
            return
        different = list(set(ids))
        if not any(collection.get(different)):
            raise self._full(collection, len(different))

    @contextmanager
    def writing(
        self, collection: Collection, ids: Sequence[str], check_alive: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Reserves room for items while they are written.

        Close to the limit it waits for the writes that are under way, which may or may not leave room.

        Args:
            collection: where to write.
            ids: ids of the items; those that it has already take no room.
            check_alive: called now and then while it waits; raises if nobody wants the items written any more.

        Raises:
            LimitReached: there is no room for all of them.
        """
        if not self._items:
            yield
            return
        name, different = collection.spec.id, list(set(ids))
        count = len(different)
        with self._reserving:
            while not self._fits(collection, count):
                # Looked up only where it matters: most writes are far from the limit.
                count = sum(item is None for item in collection.get(different))
                if self._fits(collection, count):
                    break
                if not self._reserved[name]:
                    raise self._full(collection, count)
                self._reserving.wait(_LOOK_S)
                check_alive()
                count = len(different)  # what was there may be gone
            self._reserved[name] += count
        try:
            yield
        finally:
            with self._reserving:
                self._reserved[name] -= count
                if not self._reserved[name]:
                    del self._reserved[name]
                self._reserving.notify_all()

    def _check_share(self, names: Sequence[str], caller: Principal) -> None:
        # Counts what the caller may delete, whoever created it, so that the limit survives changes of keys.
        most = caller.share.over(self._each).max_collections
        count = sum(caller.may("admin", one) for one in names) if most else 0
        if most and count >= most:
            raise LimitReached(
                f"Collections that the caller may `admin`: {count} (limit {most}). Delete one to create another.",
                reason="KEY_COLLECTIONS_LIMIT",
            )
        if self._collections and len(names) >= self._collections:
            raise LimitReached(
                f"The server has as many collections as it may have (limit {self._collections}).",
                reason="COLLECTIONS_LIMIT",
            )

    def _full(self, collection: Collection, count: int) -> LimitReached:
        return LimitReached(
            f"Collection `{collection.spec.id}` has a limit of {self._items} items; {count} more would not fit.",
            reason="COLLECTION_ITEMS_LIMIT",
            field="items",
        )

    def _fits(self, collection: Collection, count: int) -> bool:
        # What is being written counts twice from when it is stored until its reservation ends.
        present = collection.status().item_count + self._reserved[collection.spec.id]
        return not count or present + count <= self._items


def _check_files() -> None:
    files = open_files()
    if files is not None and files.are_short:
        raise LimitReached(
            f"The server has no files left for a collection: it may open {files.limit:g}, of which it keeps "
            f"{files.reserve} for connections. Delete a collection, or raise its limit of open files (`ulimit -n`).",
            reason="OPEN_FILES_LIMIT",
        )
