"""How much may be stored: collections, as the files that they take allow, and items in each."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import LimitReached
from twinsight_core.host.open_files import open_files
from twinsight_server.access.principals import Principal, Share


class Quotas:
    """Limits on what is stored; 0: none. Exact, however many write at once. May be used from any thread.

    Args:
        catalog: where collections are counted.
        collections: there may be.
        collections_each: of those that a caller may `admin`, whoever made them, there may be for it to make another,
            where its key has no limit of its own.
        items: that each collection may have.
    """

    def __init__(self, catalog: Catalog, *, collections: int, collections_each: int, items: int) -> None:
        self._catalog = catalog
        self._collections = collections
        self._each = Share(max_collections=collections_each)
        self._items = items
        self._creating = threading.Lock()
        self._reserving = threading.Lock()
        self._reserved: Counter[str] = Counter()

    @contextmanager
    def creating(self, name: str, caller: Principal) -> Iterator[None]:
        """While a caller makes a collection, one at a time. One that is there already takes no room from any.

        Raises:
            LimitReached: there are as many as there may be, of all or of the caller's, or its files would be taken from
                connections.
        """
        with self._creating:
            names = [one for one, _ in self._catalog.list()]
            if name not in names:
                self._check_share(names, caller)
                _check_files()
            yield

    def check_room(self, collection: Collection, ids: Sequence[str]) -> None:
        """Checks, before anything is done for items, that one of them may be written.

        Args:
            collection: where to.
            ids: of the items, good ones and bad ones, that would be new; none of them: there is nothing to check.

        Raises:
            LimitReached: the collection is full, and has none of them.
        """
        if self._items and ids and not self._has_room(collection, 1) and not any(collection.get(list(set(ids)))):
            raise self._full(collection, len(set(ids)))

    @contextmanager
    def writing(self, collection: Collection, ids: Sequence[str]) -> Iterator[None]:
        """While items are written, for which room is kept meanwhile.

        Args:
            collection: where to.
            ids: of the items; those that it has already take no room.

        Raises:
            LimitReached: there is no room for all of them.
        """
        if not self._items:
            yield
            return
        name, different = collection.spec.id, list(set(ids))
        count = len(different)
        with self._reserving:
            if not self._has_room(collection, count):
                # Looked up only where it matters: most writes are far from the limit.
                count -= sum(item is not None for item in collection.get(different))
                if not self._has_room(collection, count):
                    raise self._full(collection, count)
            self._reserved[name] += count
        try:
            yield
        finally:
            with self._reserving:
                self._reserved[name] -= count

    def _check_share(self, names: Sequence[str], caller: Principal) -> None:
        # A caller's are those that it may delete, whoever made them: so it holds whatever becomes of keys.
        most = caller.share.over(self._each).max_collections
        if most and sum(caller.may("admin", one) for one in names) >= most:
            raise LimitReached(
                f"There may be {most} of the collections that the caller may `admin`, and there are as many.",
                reason="KEY_COLLECTIONS_LIMIT",
            )
        if self._collections and len(names) >= self._collections:
            raise LimitReached(
                f"There may be {self._collections} collections, and there are as many.", reason="COLLECTIONS_LIMIT"
            )

    def _full(self, collection: Collection, count: int) -> LimitReached:
        return LimitReached(
            f"Collection `{collection.spec.id}` may have {self._items} items; there is no room for {count} more.",
            reason="COLLECTION_ITEMS_LIMIT",
            field="items",
        )

    def _has_room(self, collection: Collection, count: int) -> bool:
        # What is being written is counted twice once it is there: a little early is better than too late.
        present = collection.status().item_count + self._reserved[collection.spec.id]
        return not count or present + count <= self._items


def _check_files() -> None:
    files = open_files()
    if files is not None and files.are_short:
        raise LimitReached(
            f"The server may have {files.limit:g} files open and keeps {files.reserve} of them for connections; the "
            "others are in use. Delete a collection, or raise the server's limit of open files (`ulimit -n`).",
            reason="OPEN_FILES_LIMIT",
        )
