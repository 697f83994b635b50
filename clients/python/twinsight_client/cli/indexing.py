"""Indexes a folder of pictures into a collection, so that running it again does only what is left to do.

1. The picture files are found; each file's path under the folder becomes an item's id.
2. The server is asked, 500 ids at a time, which items it has of these same files (path, size, modification time); those
   are done. That record on the server is the only state: a run that was interrupted is simply run again.
3. A picture whose id belongs to another picture, from another folder, is recorded and skipped, unless it is to be
   replaced. One whose folder was moved, or that changed in place, keeps the fields that others wrote.
4. The rest is read and sent in batches by a few threads. At most twice as many batches as threads are in flight, so
   memory stays bounded whatever the folder.
5. Pictures that can't be read, here or by the server, are recorded with the reason; a call that fails as a whole ends
   the run.
6. On request, items whose file is gone are deleted: only if the system says that there is no such file, not if a folder
   can't be read. Items of another folder are deleted only if the user says that it was moved here: a folder that can't
   be seen may be unmounted or on another machine.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from twinsight_client import filters
from twinsight_client.cli.batches import TOO_LARGE, ask_in_parts, cut, too_large
from twinsight_client.cli.embedders import default_embedder
from twinsight_client.cli.pictures import Listing, Picture, is_gone
from twinsight_client.client import Client
from twinsight_client.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from twinsight_client.images import UNREADABLE
from twinsight_client.items import NewItem
from twinsight_client.results import CollectionInfo, ItemError
from twinsight_client.unicode_text import is_unicode

TAKEN = "ITEM_OF_ANOTHER_PICTURE"
CHUNK = 500
"""Ids per request; the server accepts 1000."""
_NOTHING = filters.field("root").exists() & filters.field("root").is_missing()
"""A filter that no item matches."""
_OF_THE_COLLECTION = frozenset({"COLLECTION_UNBOUND", "MODEL_NOT_LOADED"})
"""Reasons that apply to every picture, not only to one."""
_LOOK_S = 0.5
"""How often the waiting main thread wakes up: a Ctrl-C just as it begins to wait does not wake it."""

T = TypeVar("T")


@dataclass(frozen=True)
class Skipped:
    """A picture that was not indexed, or a folder that was not searched, and why."""

    id: str
    reason: str
    message: str


@dataclass
class IndexReport:
    """Results of a run.

    Attributes:
        collection: the collection's id.
        found: picture files under the folder.
        unchanged: of these, those that the server already had.
        written: of these, those written now.
        skipped: of these, those that could not be written; and files and folders that could not be read.
        moved: items of the same pictures that had been indexed from another folder.
        moved_from: the folders that those had been indexed from.
        replaced: items of other pictures that pictures of this folder replaced.
        passed_over: number of ignored picture files, by suffix.
        linked_folders: links to folders under the folder, which are not followed.
        pruned: items deleted because their file is gone.
        seconds: how long it took.
        finished: whether the run completed, including pruning.
    """

    collection: str
    found: int = 0
    unchanged: int = 0
    written: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    moved: int = 0
    moved_from: list[str] = field(default_factory=list)
    replaced: int = 0
    passed_over: dict[str, int] = field(default_factory=dict)
    linked_folders: list[str] = field(default_factory=list)
    pruned: int = 0
    seconds: float = 0.0
    finished: bool = False


class Indexer:
    """Writes the pictures of a folder to a collection.

    Args:
        client: client of the server; used by several threads.
        collection: id of a collection that is bound to a model.
        prefix: put before each id, so that several folders can share a collection.
        moved_from: folders, as items name them, that were moved to this one: their items count as this folder's.
        replace: also replace items of other pictures with the same id, which lose their fields.
        jobs: batches sent concurrently.
        batch_size: most pictures in a batch.
        advance: called with the number of further pictures that are done.
        interrupted: called after Ctrl-C with the number of batches in flight; another Ctrl-C abandons them.

    Attributes:
        report: what was done so far; complete even after an exception.
    """

    def __init__(
        self,
        client: Client,
        collection: str,
        *,
        prefix: str = "",
        moved_from: Collection[str] = (),
        replace: bool = False,
        jobs: int = 4,
        batch_size: int = 16,
        advance: Callable[[int], None] = lambda _count: None,
        interrupted: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._client = client
        self._collection = collection
        self._prefix = prefix
        self._moved_from = moved_from
        self._replace = replace
        self._replacing: set[str] = set()
        self._moving: dict[str, str] = {}
        self._jobs = jobs
        self._batch_size = batch_size
        self._advance = advance
        self._interrupted = interrupted
        self._turn = threading.Condition()
        self._in_work = 0
        self._stopped = False
        self._arrived: deque[_Sent] = deque()
        self.report = IndexReport(collection)

    def run(self, listing: Listing) -> None:
        """Writes the pictures that the server does not have yet; see `report` for the results.

        Raises:
            TwinsightClientError: the run can't continue; what was acknowledged until then is on disk.
            KeyboardInterrupt: likewise; it is raised when the batches in flight have finished, or by a second Ctrl-C.
        """
        started = time.monotonic()
        self.report.found = len(listing.pictures)
        self.report.passed_over = dict(listing.passed_over)
        self.report.linked_folders = list(listing.linked_folders)
        self.report.skipped.extend(
            Skipped(self._prefix + one.file, one.reason, one.message) for one in listing.unreadable
        )
        pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="index")
        under_way: set[Future[None]] = set()
        try:
            for batch in cut(self._changed(listing.pictures), size_of=lambda one: one.size, most=self._batch_size):
                under_way.add(pool.submit(self._handle, batch))
                if len(under_way) >= 2 * self._jobs:
                    self._settle(under_way)
            while under_way:
                self._settle(under_way)
            self.report.finished = True
        except BaseException as error:
            # Waiting batches are dropped; those in flight may finish, since they may be on the server's disk already.
            # The pool can't tell which those are: it loses a thread whose start Ctrl-C interrupts.
            in_work = self._stop()
            if isinstance(error, KeyboardInterrupt):
                self._interrupted(in_work)  # from here on, another Ctrl-C ends the run at once
            with self._turn:
                while not self._turn.wait_for(lambda: self._in_work == 0, _LOOK_S):
                    pass
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            self._count_arrived()
            self.report.seconds = time.monotonic() - started

    def run_and_prune(self, listing: Listing, *, purge: bool = False) -> None:
        """Does both; prunes, which needs no model, also where the collection's model is not served any more.

        Raises:
            TwinsightClientError, KeyboardInterrupt, InvalidArgument: as the two do.
        """
        try:
            self.run(listing)
        except FailedPrecondition as error:
            if error.reason in _OF_THE_COLLECTION:
                self.prune(listing, purge=purge)
            raise
        self.prune(listing, purge=purge)

    def prune(self, listing: Listing, *, purge: bool = False) -> None:
        """Deletes the items of this folder, or of one that was moved here, whose file is gone.

        The file must also be gone from the folder that it was moved from: one that still exists there was not moved.
        With `purge`, these items and all that was deleted or replaced in the collection before are erased. That happens
        once, at the end, even if no file is newly gone, since an earlier run may have deleted without erasing.

        Raises:
            InvalidArgument: there are no pictures at all: more likely an unmounted disk than intention.
            TwinsightClientError: the run can't continue.
        """
        started, finished = time.monotonic(), self.report.finished
        self.report.finished = False
        try:
            self._prune(listing, purge=purge)
            self.report.finished = finished
        finally:
            self.report.seconds += time.monotonic() - started

    def _prune(self, listing: Listing, *, purge: bool) -> None:
        if not listing.pictures:
            raise InvalidArgument("The folder has no pictures; nothing was pruned.", reason="FOLDER_EMPTY")
        kept = {self._id(picture) for picture in listing.pictures}
        ours = filters.field("root").is_in([str(listing.root), *self._moved_from])
        gone: list[str] = []
        for page in self._client.list_items(self._collection, where=ours, page_size=CHUNK):
            for item in page.values():
                if item.id in kept or not item.id.startswith(self._prefix):
                    continue
                root, file = item.metadata.get("root"), item.metadata.get("file")
                if not isinstance(root, str) or not isinstance(file, str):
                    continue
                if is_gone(listing.root / file) and is_gone(Path(root, file)):
                    gone.append(item.id)
        for ids in _chunks(gone, CHUNK):
            self.report.pruned += self._client.delete_items(self._collection, ids).deleted_count
        if purge:
            # Each purge rewrites the whole collection, so there is one, which deletes nothing itself.
            self._client.delete_items(self._collection, where=_NOTHING, purge=True)

    def _id(self, picture: Picture) -> str:
        return self._prefix + picture.file

    def _changed(self, pictures: Sequence[Picture]) -> Iterator[Picture]:
        """Yields the pictures that the server does not have in their current state."""
        for chunk in _chunks(pictures, CHUNK):
            sendable = [picture for picture in chunk if self._is_sendable(picture)]
            if not sendable:
                continue
            stored = self._client.get_items(self._collection, [self._id(picture) for picture in sendable])
            for picture, answer in zip(sendable, stored, strict=True):
                if isinstance(answer, ItemError):
                    if answer.code == NotFound.code:
                        yield picture
                    else:
                        self._skip(picture, answer.reason or answer.code, answer.message)
                elif picture.same_file(answer.metadata):
                    self.report.unchanged += 1
                    self._advance(1)
                elif not picture.is_another(answer.metadata, moved_from=self._moved_from):
                    self._note_move(answer.metadata.get("root"), picture)
                    yield replace(picture, others=answer.metadata)
                elif self._replace:
                    self._replacing.add(self._id(picture))
                    yield picture
                else:
                    was = f"{answer.metadata['file']} of {answer.metadata['root']}"
                    self._skip(picture, TAKEN, f"This id belongs to another picture, {was}.")

    def _note_move(self, before: object, picture: Picture) -> None:
        """Remembers that an item names another folder than its picture is in; one that names none did not move."""
        if isinstance(before, str) and before != str(picture.root):
            self._moving[self._id(picture)] = before

    def _is_sendable(self, picture: Picture) -> bool:
        """Whether the picture can be sent at all; otherwise records it as skipped."""
        if not is_unicode(str(picture.path)):
            self._skip(picture, "FILE_NAME_NOT_UNICODE", "The file's name is not valid UTF-8.")
            return False
        if said := too_large(picture.size):
            self._skip(picture, TOO_LARGE, said)
            return False
        return True

    def _stop(self) -> int:
        """Lets no further batch begin; returns how many are in flight."""
        with self._turn:
            self._stopped = True
            return self._in_work

    def _handle(self, batch: Sequence[Picture]) -> None:
        """Sends one batch, unless the run was stopped; runs in one of the threads."""
        with self._turn:
            if self._stopped:
                return
            self._in_work += 1
        try:
            self._arrived.append(self._send(batch))
        finally:
            with self._turn:
                self._in_work -= 1
                self._turn.notify_all()

    def _send(self, batch: Sequence[Picture]) -> _Sent:
        """Reads and writes one batch."""
        sent = _Sent()
        items: list[NewItem] = []
        for picture in batch:
            try:
                items.append(NewItem(self._id(picture), picture.path.read_bytes(), picture.metadata()))
            except OSError as error:
                sent.skipped.append(Skipped(self._id(picture), UNREADABLE, error.strerror or str(error)))
        self._write(items, sent)
        return sent

    def _write(self, items: Sequence[NewItem], sent: _Sent) -> None:
        for part, answers in ask_in_parts(items, partial(self._client.upsert, self._collection)):
            if isinstance(answers, ResourceExhausted):
                sent.skipped.append(Skipped(part[0].id, TOO_LARGE, answers.message))
                continue
            for item, answer in zip(part, answers, strict=True):
                if isinstance(answer, ItemError):
                    if answer.reason in _OF_THE_COLLECTION:
                        raise answer.exception(request_id=answers.call.request_id)
                    sent.skipped.append(Skipped(item.id, answer.reason or answer.code, answer.message))
                else:
                    sent.written += 1
                    sent.replaced += item.id in self._replacing
                    if item.id in self._moving:
                        sent.moved_from.append(self._moving[item.id])

    def _settle(self, under_way: set[Future[None]]) -> None:
        """Waits for at least one batch and counts the finished ones; raises their exceptions."""
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        self._count_arrived()
        for one in done:
            under_way.remove(one)
            one.result()

    def _count_arrived(self) -> None:
        while self._arrived:
            sent = self._arrived.popleft()
            self.report.written += sent.written
            self.report.replaced += sent.replaced
            self.report.moved += len(sent.moved_from)
            self.report.moved_from = list(dict.fromkeys([*self.report.moved_from, *sent.moved_from]))
            self.report.skipped.extend(sent.skipped)
            self._advance(sent.written + len(sent.skipped))

    def _skip(self, picture: Picture, reason: str, message: str) -> None:
        self.report.skipped.append(Skipped(self._id(picture), reason, message))
        self._advance(1)


@dataclass
class _Sent:
    """Results of one batch."""

    written: int = 0
    replaced: int = 0
    moved_from: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def ensure_collection(client: Client, collection: str, *, model: str) -> CollectionInfo:
    """Returns the collection; if missing, creates it, bound to `model` (empty: see `default_embedder`).

    Raises:
        FailedPrecondition: it exists and is bound to another model or to none.
        NotFound: it exists, and `model` is another that is not served.
        TwinsightClientError: the server rejected the call or can't be reached.
    """
    try:
        found = client.get_collection(collection)
    except NotFound:
        try:
            return client.create_collection(collection, model=model or default_embedder(client))
        except AlreadyExists:  # created concurrently
            found = client.get_collection(collection)
    # By its digest: a name says nothing once a model has changed, or is served under another.
    served = found.model_digest
    if found.model and model:
        try:
            served = client.get_model(model).digest
        except NotFound:
            if model != found.model:
                raise  # the pictures' turn tells of the collection's own
    if not found.model or served != found.model_digest:
        bound = f"model `{found.model}` ({found.model_digest})" if found.model else "no model"
        other = f", and `{model}` is {served}" if found.model else ""
        raise FailedPrecondition(
            f"Collection `{collection}` is bound to {bound}{other}; choose another with --collection.",
            reason="MODEL_MISMATCH",
        )
    return found


def _chunks(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (things[start : start + size] for start in range(0, len(things), size))
