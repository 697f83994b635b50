"""The single thread that writes a collection, while there is something to write.

1. It takes all waiting requests, up to a bound, as one group.
2. It plans them in order, each on top of those before it, into one set of changes.
3. It commits the changes: one transaction and one disk sync for the whole group.
4. It applies them to memory, in one step as seen by searches.
5. It answers the requests. Acknowledged therefore means durable and visible.
6. Purging deletions are answered after one more step, once for the whole group: everything deleted is erased from disk.
7. If the store's log has become large, it is folded into the file; only the next group waits for that.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from twinsight_core.errors import StorageFull, Unavailable
from twinsight_core.filters import Filter
from twinsight_core.host.brief_threads import LINGER_S, NO_THREADS, joined, start_thread
from twinsight_core.index.locks import ReadWriteLock
from twinsight_core.items import Checkpoint, NewItem, NewMetadata
from twinsight_core.metadata import encode_metadata
from twinsight_core.storage.records import Changes, StoredItem, vector_of
from twinsight_core.storage.store import Store

_GROUP_REQUESTS = 256
_GROUP_ITEMS = 8192
_LOOK_S = 0.1  # between two looks at whether a waiting request is still wanted

_log = logging.getLogger("twinsight.collection")


@dataclass(frozen=True)
class Upsert:
    """Writes items; the answer says for each whether it is on disk: false if it has no vector to keep."""

    items: Sequence[NewItem | NewMetadata]
    checkpoint: Checkpoint | None
    answer: Future[list[bool]] = field(default_factory=Future)


@dataclass(frozen=True)
class Delete:
    """Deletes ids, and erases them with `purge`; the answer says for each whether it existed.

    `deleted` is the answer from when the deletion is on disk: the erasing may yet fail.
    """

    ids: Sequence[str]
    purge: bool = False
    answer: Future[list[bool]] = field(default_factory=Future)
    deleted: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class DeleteWhere:
    """Deletes what meets a filter, and erases it with `purge`; the answer has one true for each item that did.

    `deleted` is as in `Delete`.
    """

    filter: Filter
    purge: bool = False
    answer: Future[list[bool]] = field(default_factory=Future)
    deleted: list[bool] = field(default_factory=list)


Request = Upsert | Delete | DeleteWhere


class Plan:
    """The changes that a group of requests makes to the store, and the answer to each."""

    def __init__(
        self, ids: dict[str, int], ingests: dict[str, int], next_seq: int, *, kept: Mapping[str, np.ndarray]
    ) -> None:
        """Plans nothing yet.

        Args:
            ids: sequence number by id of all items.
            ingests: last batch by the name of a bulk write.
            next_seq: of the next item.
            kept: the vectors of the items of which only the metadata is written.
        """
        self._ids = ids
        self._kept = kept
        self._ingests = ingests
        self.next_seq = next_seq
        self.added: dict[str, tuple[int, NewItem]] = {}
        self.removed: dict[str, int] = {}
        self.ingests: dict[str, int] = {}

    def upsert(self, request: Upsert) -> list[bool]:
        """Plans to write items; skips a batch that was written before."""
        checkpoint = request.checkpoint
        if checkpoint is not None:
            name = checkpoint.ingest_id
            if checkpoint.batch <= self.ingests.get(name, self._ingests.get(name, 0)):
                return [True] * len(request.items)
            self.ingests[name] = checkpoint.batch
        return [self._put(item) for item in request.items]

    def delete(self, ids: Sequence[str]) -> list[bool]:
        """Plans to delete ids, and returns for each whether it exists when its turn comes."""
        return [self._remove(one) for one in ids]

    def _put(self, item: NewItem | NewMetadata) -> bool:
        if isinstance(item, NewMetadata):
            vector = self._vector_of(item.id)
            if vector is None:
                return False
            item = NewItem(item.id, vector, item.metadata)
        self._remove(item.id)
        self.added[item.id] = (self.next_seq, item)
        self.next_seq += 1
        return True

    def _vector_of(self, item_id: str) -> np.ndarray | None:
        """Returns the vector that an item has when its turn comes; None if it does not exist then."""
        if item_id in self.added:
            return self.added[item_id][1].vector
        return None if item_id in self.removed else self._kept.get(item_id)

    def _remove(self, item_id: str) -> bool:
        if self.added.pop(item_id, None) is not None:
            return True
        seq = self._ids.get(item_id)
        if seq is None or item_id in self.removed:
            return False
        self.removed[item_id] = seq
        return True


class Writer:
    """Owns the store's writes and the map of ids. Callers submit requests and wait for the answers."""

    def __init__(
        self,
        store: Store,
        ids: dict[str, int],
        *,
        apply: Callable[[Sequence[tuple[int, NewItem]], np.ndarray], None],
        matching: Callable[[Filter], list[str]],
        erase: Callable[[], None],
    ) -> None:
        """Takes the store and memory to write to.

        Args:
            store: the open store.
            ids: sequence number by id of all items; the writer keeps it up to date.
            apply: applies added items and removed sequence numbers, `[n] int64`, to memory, in one step.
            matching: returns the ids of the items that meet a filter.
            erase: erases everything deleted from disk.
        """
        self._store = store
        self._ids = ids
        self._ingests = store.ingests
        self._next_seq = store.next_seq
        self._apply = apply
        self._matching = matching
        self._erase = erase
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._held: Request | None = None
        self._writing = ReadWriteLock()
        self._handing = threading.Lock()  # held while submitting a request, and by the thread while it ends
        self._closed = False
        self._broken = False
        self._thread: threading.Thread | None = None

    def submit(self, request: Request, check_wanted: Callable[[], None] = lambda: None) -> list[bool]:
        """Returns the answer to a request once it is on disk and in memory.

        Args:
            request: is done whole or not at all.
            check_wanted: raises if nobody waits for the answer any more; called while the request waits for its turn,
                which a purge can hold up for long. Nothing of it is done then.

        Raises:
            StorageFull: the disk has no room; nothing of the request was written.
            DataLoss: the store is damaged.
            Unavailable: the collection is closed or must be reopened, or no thread can be started.
        """
        with self._handing:
            if self._closed:
                raise Unavailable(f"Collection `{self._store.spec.id}` is closed.", reason="COLLECTION_CLOSED")
            if self._thread is None:
                self._thread = self._started()
            self._requests.put(request)
        while not _is_answered(request.answer):
            try:
                check_wanted()
            except BaseException:
                if request.answer.cancel():
                    raise
                break  # it is being done
        return request.answer.result()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Waits for the write in progress and blocks the next one: disk and memory agree within the block.

        Raises:
            Unavailable: they do not, because a write failed between the two.
        """
        with self._writing.read():
            self.check_whole()
            yield

    @property
    def is_broken(self) -> bool:
        """Whether disk and memory no longer agree, because a write failed between the two."""
        return self._broken

    def check_whole(self) -> None:
        """Raises Unavailable if `is_broken`."""
        if self._broken:
            # A new one each time: an error that is raised again keeps everything alive that its callers held.
            raise Unavailable(f"Collection `{self._store.spec.id}` must be reopened.", reason="COLLECTION_BROKEN")

    def last_batch(self, ingest_id: str) -> int:
        """Returns the highest batch on disk of a bulk write; 0 if there is none."""
        return self._ingests.get(ingest_id, 0)

    def close(self, *, until: float = math.inf) -> bool:
        """Answers all submitted requests, and ends the thread; returns whether it ended in time (`joined`)."""
        with self._handing:
            if not self._closed:
                self._closed = True
                self._requests.put(None)
            thread = self._thread
        return joined(thread, until=until)

    def _started(self) -> threading.Thread:
        try:
            return start_thread(self._run, name=f"twinsight-write-{self._store.spec.id}")
        except RuntimeError as error:
            raise Unavailable(NO_THREADS, reason="THREADS_EXHAUSTED") from error

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            try:
                if group:
                    self._write(group)
            except StorageFull as error:
                # One failing large request must not fail the small ones of its group.
                if len(group) == 1:
                    _fail(group[0], error)
                else:
                    for request in group:
                        self._write_alone(request)
            except BaseException as error:  # noqa: BLE001 - the callers must get it, whatever it is
                for request in group:
                    _fail(request, error)
            self._store.fold_log()

    def _write_alone(self, request: Request) -> None:
        try:
            self._write([request])
        except BaseException as error:  # noqa: BLE001 - as above
            _fail(request, error)

    def _next_group(self) -> list[Request] | None:
        """Waits for a request; returns it and those behind it, if still wanted, or None if the thread is to end."""
        first = self._held if self._held is not None else self._next_request()
        self._held = None
        if first is None:
            return None
        group, items = [first], _size(first)
        while len(group) < _GROUP_REQUESTS and not isinstance(group[0], DeleteWhere):
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                break
            if request is None:
                self._requests.put(None)  # is read again after this group
                break
            items += _size(request)
            # A filter is evaluated in memory, so all earlier writes must be there.
            if isinstance(request, DeleteWhere) or items > _GROUP_ITEMS:
                self._held = request
                break
            group.append(request)
        return [one for one in group if one.answer.set_running_or_notify_cancel()]

    def _next_request(self) -> Request | None:
        """Waits for a request; returns None if none came for a while, or the writer is closed."""
        try:
            return self._requests.get(timeout=LINGER_S)
        except queue.Empty:
            with self._handing:
                if not self._requests.empty():  # it came in the meantime
                    return self._requests.get()
                self._thread = None
                return None

    def _write(self, group: Sequence[Request]) -> None:
        self.check_whole()
        plan = Plan(self._ids, self._ingests, self._next_seq, kept=self._kept_vectors(group))
        answers = [self._planned(plan, request) for request in group]
        added = sorted(plan.added.values(), key=lambda one: one[0])
        purging = [_purges(request) for request in group]
        if added or plan.removed or plan.ingests or any(purging):
            with self._writing.write():
                self._commit(plan, added, purge=any(purging))
                try:  # at once: nothing may fail between the disk and the memory
                    self._into_memory(plan, added)
                finally:
                    for request, answer in zip(group, answers, strict=True):
                        if not isinstance(request, Upsert):
                            request.deleted.extend(answer)
        for request, answer, purge in zip(group, answers, purging, strict=True):
            if not purge:
                request.answer.set_result(answer)
        if any(purging):
            self._purge([pair for pair, purge in zip(zip(group, answers, strict=True), purging, strict=True) if purge])

    def _purge(self, answered: Sequence[tuple[Request, list[bool]]]) -> None:
        """Erases what was deleted, and answers the requests that asked for it."""
        try:
            self._erase()
        except BaseException as error:  # noqa: BLE001 - as in `_run`
            for request, _ in answered:
                request.answer.set_exception(error)
            return
        for request, answer in answered:
            request.answer.set_result(answer)

    def _commit(self, plan: Plan, added: Sequence[tuple[int, NewItem]], *, purge: bool) -> None:
        self._store.commit(
            Changes(
                removed=list(plan.removed.values()),
                added=[_stored(seq, item) for seq, item in added],
                ingests=plan.ingests,
                next_seq=plan.next_seq,
                item_count=len(self._ids) - len(plan.removed) + len(added),
                purge=purge,
            )
        )

    def _into_memory(self, plan: Plan, added: Sequence[tuple[int, NewItem]]) -> None:
        try:
            self._remember(plan, added)
        except BaseException:  # noqa: BLE001 - raised again in other words
            # The disk is now ahead of memory, by writes that nobody was told of. Further writes would be planned on a
            # stale state, and reads from disk would return what no search finds.
            _log.exception("collection `%s` must be reopened", self._store.spec.id)
            self._broken = True
        self.check_whole()

    def _kept_vectors(self, group: Sequence[Request]) -> dict[str, np.ndarray]:
        """Returns the vectors of the items of which only the metadata is written, as they are before the group."""
        upserts = (request for request in group if isinstance(request, Upsert))
        ids = {item.id for request in upserts for item in request.items if isinstance(item, NewMetadata)}
        seqs = {item_id: self._ids[item_id] for item_id in ids if item_id in self._ids}
        kept: dict[str, np.ndarray] = {}
        for item_id, stored in zip(seqs, self._store.by_seq(list(seqs.values())) if seqs else (), strict=True):
            if stored is None:
                raise self._store.damaged("an item whose vector is to be kept is missing")
            kept[item_id] = vector_of(stored)
        return kept

    def _planned(self, plan: Plan, request: Request) -> list[bool]:
        if isinstance(request, Upsert):
            return plan.upsert(request)
        if isinstance(request, Delete):
            return plan.delete(request.ids)
        return plan.delete(self._matching(request.filter))

    def _remember(self, plan: Plan, added: Sequence[tuple[int, NewItem]]) -> None:
        self._apply(added, np.array(list(plan.removed.values()), np.int64))
        for item_id in plan.removed:
            del self._ids[item_id]
        self._ids.update((item.id, seq) for seq, item in added)
        self._ingests.update(plan.ingests)
        self._next_seq = plan.next_seq


def _is_answered(answer: Future[list[bool]]) -> bool:
    """Waits a moment for an answer; returns whether there is one."""
    try:
        answer.exception(_LOOK_S)
    except TimeoutError:
        return False
    return True


def _fail(request: Request, error: BaseException) -> None:
    """Answers a request with an error, unless it is answered: what fails then is another's, or the thread's own."""
    if not request.answer.done():
        request.answer.set_exception(error)


def _purges(request: Request) -> bool:
    return not isinstance(request, Upsert) and request.purge


def _size(request: Request) -> int:
    if isinstance(request, Upsert):
        return len(request.items)
    return len(request.ids) if isinstance(request, Delete) else 0


def _stored(seq: int, item: NewItem) -> StoredItem:
    vector = np.ascontiguousarray(item.vector, "<f4").tobytes()
    return StoredItem(seq, item.id, vector, encode_metadata(item.metadata))
