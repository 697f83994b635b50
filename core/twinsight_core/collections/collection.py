"""A durable, searchable collection of vectors with metadata.

A write goes through these modules: `items` checks it, `writer` groups it with others, `store` makes it durable, `rows`
makes it visible, and it is acknowledged. Later `indexer` adds it to the graph. A search (`search`) reads `rows` and the
graph. Opening (`opening`) reads the store into `rows`, loads the graph from a snapshot (`snapshots`) and leaves the
rest to `indexer`.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from twinsight_core.collections import callbacks
from twinsight_core.collections.matches import Content, contents_of, matches_of
from twinsight_core.collections.opening import finish_purge, read_rows, restored
from twinsight_core.collections.paging import Reading, page_of_all, page_of_matches
from twinsight_core.collections.writer import Delete, DeleteWhere, Upsert, Writer
from twinsight_core.errors import DataLoss, Unavailable
from twinsight_core.filters import Filter, check_filter
from twinsight_core.host.cores import core_count
from twinsight_core.index.base import prepared
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.index.row_memory import IN_MEMORY, RowPlaces, VectorCopy
from twinsight_core.items import (
    Checkpoint,
    CollectionState,
    CollectionStatus,
    Item,
    Match,
    NewItem,
    NewMetadata,
    SearchOptions,
    check_checkpoint,
    check_item,
    check_items,
    check_options,
    check_queries,
    check_vector,
)
from twinsight_core.sealing.keyring import Keyring
from twinsight_core.search.combining import Combiner
from twinsight_core.search.generation import Generation
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.search.indexer import Indexer
from twinsight_core.search.rows import Rows
from twinsight_core.search.search import Answer
from twinsight_core.storage.records import StoredItem, vector_of
from twinsight_core.storage.store import FILE_NAME, Store

_log = logging.getLogger("twinsight.collection")


@dataclass(frozen=True)
class CollectionOptions:
    """The settings of collections; the same for all of a server.

    Attributes:
        graph: how graphs are built, and with how many threads.
        policy: when they are built, rebuilt and saved.
        ef: width of a graph search if the request gives none. At 96, recall@10 on clustered vectors (20,000 x 256) is
            1.00, and 0.997 at 32.
        vfs: name of the SQLite file system; None for the platform's.
        vectors_on_disk: whether the data for exact search beside the graph is in a file (`index/row_memory.py`), unless
            the collection is encrypted.
        vector_copy: what that data is: the vectors, or `int8`, a copy in a quarter of the bytes, after whose scan few
            vectors need to be read (`index/int8_copy.py`). The vectors are then in a file in any case. Encrypted
            collections have the vectors in memory.
        keyring: opens encrypted collections, and its primary key encrypts new ones; None for no encryption.
        allow_plain: whether unencrypted collections are opened although there is a keyring.
    """

    graph: GraphParameters = field(default_factory=lambda: GraphParameters(threads=core_count()))
    policy: IndexPolicy = field(default_factory=IndexPolicy)
    ef: int = 96
    vfs: str | None = None
    vectors_on_disk: bool = False
    vector_copy: VectorCopy = "float32"
    keyring: Keyring | None = None
    allow_plain: bool = False

    def places(self, folder: Path) -> RowPlaces:
        """Returns where the vectors of a collection in a folder are kept, unless it is encrypted."""
        on_disk = folder if self.vectors_on_disk else None
        if self.vector_copy == "float32":
            return RowPlaces(on_disk)
        return RowPlaces(folder, self.vector_copy, on_disk)


class Collection:
    """An open collection. Every method may be called from any thread.

    Every method except `status`, the checks and `close` raises `DataLoss` once the store has been found damaged, and
    `Unavailable` once the collection is closed, or must be reopened because a write failed between disk and memory.
    """

    def __init__(self, folder: Path, options: CollectionOptions | None = None) -> None:
        """Opens the collection in a folder; returns when it can be searched.

        Raises:
            DataLoss: its file is missing, damaged, or of a later version. Nothing was changed.
            FailedPrecondition: it is encrypted, and the key is missing; or it is not, and must be.
            StorageFull: there is no room to open it.
        """
        self._folder = folder
        self._options = options or CollectionOptions()
        self._damage: DataLoss | None = None
        self._finding = threading.Lock()
        self._store = Store(
            folder / FILE_NAME,
            vfs=self._options.vfs,
            keyring=self._options.keyring,
            allow_plain=self._options.allow_plain,
        )
        try:
            self.spec = self._store.spec
            if self._store.purging:
                finish_purge(folder, self._store)
            rows = read_rows(self._store, self._options.places(folder) if self._store.key_id is None else IN_MEMORY)
            if self._store.purging:
                generation = Generation(rows)  # a graph may hold data that is to be erased, and would be saved again
            else:
                graph_from = self._options.policy.graph_from
                generation = restored(rows, folder, self._store, self._options.graph, graph_from=graph_from)
        except BaseException:
            self._store.close()
            raise
        self._ids = dict(zip(rows.ids, rows.view.labels.tolist(), strict=True))
        self._closing = threading.Lock()
        self._closed = self._is_shut = False
        self._indexer = Indexer(
            generation,
            self._options.graph,
            self._options.policy,
            name=self.spec.id,
            snapshot=partial(callbacks.save, folder, self._store),
        )
        searching = partial(callbacks.search_generation, self._indexer, ef=self._options.ef)
        # Separate, so that graph searches, which are short, do not wait for exact searches, which are long.
        self._combiners = {exact: Combiner(searching, at_once=core_count()) for exact in (False, True)}
        self._writer = Writer(
            self._store,
            self._ids,
            apply=partial(callbacks.apply, self._indexer, self.spec.dimension),
            matching=partial(callbacks.matching, self._indexer),
            erase=partial(callbacks.erase, self._indexer, folder, self._store),
        )

    @property
    def key_id(self) -> str | None:
        """Id of the key that it is encrypted with; None if it is not."""
        return self._store.key_id

    @property
    def is_purging(self) -> bool:
        """Whether deleted items are still to be erased from the disk."""
        return self._store.purging

    def status(self) -> CollectionStatus:
        """Returns the collection's state and size."""
        generation = self._indexer.generation
        state = CollectionState.READY
        if self._damage is not None or self._writer.is_broken:
            state = CollectionState.DAMAGED
        elif self._indexer.wants_graph():
            state = CollectionState.REBUILDING
        return CollectionStatus(state, generation.rows.view.live, generation.indexed_count())

    def check_item(self, item: NewItem | NewMetadata) -> None:
        """Checks that an item may be written.

        Raises:
            InvalidInput: a bad id, vector or metadata; `field` says which.
        """
        check_item(item, self.spec)

    def check_vector(self, vector: np.ndarray) -> None:
        """Checks that a vector may be written or searched for.

        Args:
            vector: `[dimension] float32`.

        Raises:
            InvalidInput: of another dimension, not finite, or without direction under cosine.
        """
        check_vector(vector, self.spec)

    def upsert(
        self,
        items: Sequence[NewItem | NewMetadata],
        *,
        checkpoint: Checkpoint | None = None,
        check_wanted: Callable[[], None] = lambda: None,
    ) -> list[bool]:
        """Adds items, or replaces those whose id exists: all or none. They are durable and visible when it returns.

        Args:
            items: if two have one id, the later wins. New metadata for an item makes a new item with the vector that
                the item has when its turn comes.
            checkpoint: recorded with the items; a batch that was recorded before is not written again.
            check_wanted: raises if nobody waits for the result any more; called until their turn. Nothing is written.

        Returns:
            For each, whether it was written: false for new metadata of an item that does not exist.

        Raises:
            InvalidInput: an item or the checkpoint breaks a rule; nothing was written.
            StorageFull: the disk has no room; nothing was written.
        """
        check_items(items, self.spec)
        if checkpoint is not None:
            check_checkpoint(checkpoint)
        with self._guarded():
            return self._writer.submit(Upsert(items, checkpoint), check_wanted)

    def last_batch(self, ingest_id: str) -> int:
        """Returns the highest batch on disk of a bulk write; 0 if there is none."""
        with self._guarded():
            return self._writer.last_batch(ingest_id)

    def get(
        self, ids: Sequence[str], *, include_vectors: bool = False, max_bytes: int | None = None
    ) -> list[Item | None]:
        """Returns the items with some ids, None for a missing one, all as of one moment.

        Args:
            ids: the ids.
            include_vectors: return the vectors too.
            max_bytes: limit of metadata, as stored on disk, and of returned vectors; None for no limit.

        Raises:
            AnswerTooLarge: they exceed it.
        """
        read = partial(self._store.by_id, list(ids), max_bytes=max_bytes, with_vectors=include_vectors)
        with self._guarded():
            found = read()
            if not self._agree(ids, found):
                # A write is between disk and memory: every later search must find what is read here.
                with self._writer.settled():
                    found = read()
                    if not self._agree(ids, found):
                        raise self._store.damaged("the item stored under an id is not the one in memory")
        distinct = {stored.seq: stored for stored in found if stored is not None}  # one may be requested many times
        items = {seq: _item(stored, include_vectors) for seq, stored in distinct.items()}
        return [None if stored is None else items[stored.seq] for stored in found]

    def page(
        self,
        *,
        after: str,
        limit: int,
        filter: Filter | None = None,  # noqa: A002
        include_vectors: bool = False,
        max_bytes: int | None = None,
    ) -> tuple[list[Item], str | None]:
        """Returns items, and the `after` to pass for the next page; None if this is the last.

        Their order is that of `paging`: an item that exists throughout is on one page, however often it is written.

        Args:
            after: empty for the first page.
            limit: items on the page, at least 1; fewer if one is deleted meanwhile.
            filter: only items that meet it.
            include_vectors: return the vectors too.
            max_bytes: as in `get`.

        Raises:
            InvalidInput: the filter breaks a rule.
            AnswerTooLarge: as in `get`.
        """
        with self._guarded():
            reading = Reading(self._store, max_bytes=max_bytes, with_vectors=include_vectors)
            if filter is None:
                page, last = page_of_all(reading, after, limit)
                self._catch_up()
            else:
                check_filter(filter)
                # As in a search, an item that is being rewritten must not be missed.
                with self._writer.settled():
                    page, last = page_of_matches(reading, self._indexer.generation.rows, filter, after, limit)
        return [_item(stored, include_vectors) for stored in page], last

    @property
    def mark(self) -> str:
        """Identifies this collection: no other has the same, even if it is later and has its id, or another key."""
        return self._store.mark

    def delete(
        self,
        ids: Sequence[str],
        *,
        purge: bool = False,
        on_deleted: Callable[[int], None] = lambda _: None,
        check_wanted: Callable[[], None] = lambda: None,
    ) -> list[bool]:
        """Deletes items by id and returns for each whether it existed. Durable when it returns.

        Args:
            ids: of the items.
            purge: leave nothing of them in the collection's folder, nor of anything deleted or replaced before. This
                rewrites the collection's file, while writes wait.
            on_deleted: called with the number of items that are deleted, also if the purge then fails.
            check_wanted: as in `upsert`.

        Raises:
            StorageFull: the disk has no room; with reason PURGE_UNFINISHED the items are deleted, otherwise nothing is.
            Unavailable: the same, with reason PURGE_BLOCKED.
        """
        return self._delete(Delete(ids, purge), on_deleted, check_wanted)

    def delete_where(
        self,
        filter: Filter,  # noqa: A002
        *,
        purge: bool = False,
        on_deleted: Callable[[int], None] = lambda _: None,
        check_wanted: Callable[[], None] = lambda: None,
    ) -> int:
        """Deletes every item that meets a filter and returns how many did; the rest as in `delete`.

        Raises:
            InvalidInput: the filter breaks a rule.
            StorageFull: as in `delete`.
            Unavailable: as in `delete`.
        """
        check_filter(filter)
        return len(self._delete(DeleteWhere(filter, purge), on_deleted, check_wanted))

    def _delete(
        self, request: Delete | DeleteWhere, on_deleted: Callable[[int], None], check_wanted: Callable[[], None]
    ) -> list[bool]:
        try:
            with self._guarded():
                return self._writer.submit(request, check_wanted)
        finally:
            on_deleted(sum(request.deleted))

    def search(
        self, queries: np.ndarray, options: SearchOptions, *, check_wanted: Callable[[], None] = lambda: None
    ) -> list[list[Match]]:
        """Returns each query's matches, closest first; equal scores in the order of writing.

        Args:
            queries: `[n, dimension] float32`, each valid for `check_vector`.
            options: of the search. Fewer than `top_k` matches are returned only if no more meet the request.
            check_wanted: raises if nobody waits for the result any more; called while the search is queued.

        Raises:
            InvalidInput: a query or an option breaks a rule.
        """
        check_options(options)
        check_queries(queries, self.spec)
        with self._guarded():
            ready = prepared(queries, self.spec.metric)
            rows, answer, contents = self._searched(ready, options, check_wanted)
            if None in contents.values():
                # A found item is being rewritten: it is gone from the disk, where it would be read, and its replacement
                # may not be in memory yet. Between two writes it is in both, so that it is not missed.
                with self._writer.settled():
                    rows, answer, contents = self._searched(ready, options, check_wanted)
                    if None in contents.values():
                        raise self._store.damaged("an item that was found is missing")
            return matches_of(answer, contents, ids=rows.ids, metric=self.spec.metric)

    def check_usable(self) -> None:
        """Raises what every call except `status` would raise.

        Raises:
            DataLoss: the store has been found damaged.
            Unavailable: the collection is closed, or must be reopened.
        """
        if self._damage is not None:
            raise DataLoss(self._damage.message, reason=self._damage.reason)
        if self._closed:
            raise Unavailable(f"Collection `{self.spec.id}` is closed.", reason="COLLECTION_CLOSED")
        self._writer.check_whole()

    def wait_indexed(self, timeout_s: float) -> bool:
        """Waits until the graph holds every item that it will; returns whether that came about."""
        return self._indexer.wait_idle(timeout_s)

    def close(self, *, snapshot: bool = True, until: float = math.inf) -> bool:
        """Answers the writes that were handed in, saves the graph if it changed, and closes.

        Args:
            snapshot: whether the graph is saved; otherwise the next start catches up from an older one.
            until: from then on no graph is saved, and no purge waited for, on `time.monotonic`'s scale.

        Returns:
            False if it is left open, since it still writes, indexes or erases: this can be called again.
        """
        with self._closing:
            self._closed = True
            if self._is_shut:
                return True
            is_done = False
            try:
                is_done = self._writer.close(until=until)
                whole = is_done and self._damage is None and not self._writer.is_broken
                is_done &= self._indexer.close(snapshot=snapshot and whole, until=until)
            finally:
                if is_done:
                    self._is_shut = True
                    self._store.close()
            return is_done

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        self.check_usable()
        try:
            yield
        except DataLoss as error:
            with self._finding:
                if self._damage is None:
                    self._damage = DataLoss(error.message, reason=error.reason)
                    _log.error("collection `%s` is no longer used: %s", self.spec.id, error.message)
            raise

    def _agree(self, ids: Sequence[str], found: Sequence[StoredItem | None]) -> bool:
        """Returns whether memory has the items with some ids as they were found on disk."""
        return all(
            (None if stored is None else stored.seq) == self._ids.get(one)
            for one, stored in zip(ids, found, strict=True)
        )

    def _catch_up(self) -> None:
        """Waits until memory has what is on disk now, so that no later search finds less than a read returned."""
        with self._writer.settled():
            pass

    def _searched(
        self, queries: np.ndarray, options: SearchOptions, check_wanted: Callable[[], None]
    ) -> tuple[Rows, Answer, Mapping[int, Content | None]]:
        """Returns the rows that were searched, what is found among them, and its contents."""
        searched = self._combiners[options.exact].search(queries, options, check_wanted=check_wanted)
        rows, answer = searched.generation.rows, searched.answer.at_least(options.min_score)
        return rows, answer, contents_of(answer, options, rows, self._store)


def _item(stored: StoredItem, include_vector: bool) -> Item:
    return Item(stored.id, vector_of(stored) if include_vector else None, stored.metadata)
