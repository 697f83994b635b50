"""The collections of a data folder (`twinsight_core.storage.data_folder`), open."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    NotFound,
    StartupError,
    StorageFull,
    Unavailable,
)
from twinsight_core.host.allocation import give_back_freed
from twinsight_core.host.open_files import EXHAUSTED
from twinsight_core.host.whole_files import NO_ROOM, sync_folder
from twinsight_core.items import CollectionSpec, check_spec
from twinsight_core.storage.data_folder import (
    COLLECTIONS,
    DELETED,
    NEW,
    TEMPORARY,
    check_no_link,
    collection_folders,
    discard,
    make_durable,
    remove,
    remove_leftovers,
    taken,
)
from twinsight_core.storage.sqlite import keep_temporary_files_in, locked, no_more_files, unreadable
from twinsight_core.storage.store import FILE_NAME, Store

_log = logging.getLogger("twinsight.collection")

_LEAST_CLOSING_S = 1.0

Refused = DataLoss | FailedPrecondition
"""Errors for which a collection stays closed while the others open."""


class Catalog:
    """All collections of a data folder, open. Every method may be called from any thread."""

    def __init__(self, data_dir: Path, *, options: CollectionOptions | None = None, load: bool = True) -> None:
        """Locks the folder, creates it if it does not exist, and opens its collections.

        Args:
            data_dir: the folder.
            options: how collections are opened.
            load: whether to open them now; otherwise `load` must be called before anything else.

        Raises:
            StartupError: the folder is in use by another server, not writable, out of room, or its name is not UTF-8;
                or as `load`.
        """
        self._options = options or CollectionOptions()
        keyring = self._options.keyring
        self._primary = None if keyring is None else keyring.primary
        self._data_dir = data_dir
        self._root = data_dir / COLLECTIONS
        self._open: dict[str, Collection | Refused] = {}
        self._changing = threading.Condition()  # held while it is told which collections there are, and no longer
        self._leaving: set[str] = set()  # ids of collections that are being deleted
        self._closed = False
        try:
            str(data_dir).encode()
        except UnicodeEncodeError:
            raise StartupError(
                f"Data folder {str(data_dir)!r} can't be used: SQLite accepts only UTF-8 paths.",
                reason="DATA_DIR_UNUSABLE",
            ) from None
        try:
            make_durable(self._root)
            self._lock = taken(data_dir)
        except OSError as error:
            raise StartupError(
                f"Data folder `{data_dir}` can't be used: {error.strerror}.", reason="DATA_DIR_UNUSABLE"
            ) from error
        if load:
            self.load()

    def load(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Opens the collections.

        A collection stays closed and unchanged, while the others open, if it is damaged, its folder is a link, another
        program has locked it, the server has no permission to read and write it, or it is not encrypted but must be.
        So does one that is encrypted with a key that the keyring lacks, if the keyring opens another encrypted one. If
        it opens none, it is the wrong keyring, or was forgotten, and new data would be written under a key that is not
        the folder's, or under none. Plain collections prove nothing about a keyring.

        Args:
            is_over: asked before each; once true, the rest stay closed, and `close` must follow.

        Raises:
            StartupError: the folder is not writable or out of room, there are encrypted collections but the key of
                none, or no more files can be opened; the folder is released.
        """
        try:
            keep_temporary_files_in(self._data_dir / TEMPORARY)
            remove_leftovers(self._root)
            for folder in collection_folders(self._root):
                if is_over():
                    return
                if folder.name.isascii():
                    self._open[folder.name] = self._opened(folder)
                else:
                    # A name that is not UTF-8 can be neither opened nor listed.
                    _log.error("ignoring folder %a: its name is not a collection id", folder.name)
            self._check_keys()
        except BaseException as error:
            self.close()
            if isinstance(error, FailedPrecondition):
                raise StartupError(error.message, reason=error.reason) from error
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                error = no_more_files(error.errno)
            if isinstance(error, Unavailable) and error.reason == "OPEN_FILES_EXHAUSTED":
                raise StartupError(
                    f"Only {len(self._open)} collections could be opened. {error.message}", reason=error.reason
                ) from error
            if isinstance(error, OSError | StorageFull | Unavailable):
                raise StartupError(
                    f"Data folder `{self._data_dir}` can't be used: {error}", reason="DATA_DIR_UNUSABLE"
                ) from error
            raise

    def create(self, spec: CollectionSpec) -> Collection:
        """Returns a new, empty collection. It is on disk when this returns.

        Raises:
            InvalidInput: a bad id or dimension.
            AlreadyExists: the id is taken, if only by a damaged collection, or by a folder added since the start.
            StorageFull: the disk has no room.
            Unavailable: no more files can be opened.
        """
        check_spec(spec)
        with self._changing:
            self._check_open()
            if spec.id in self._leaving:
                raise Unavailable(f"Collection `{spec.id}` is being deleted; try again.", reason="COLLECTION_CLOSED")
            folder = self._root / spec.id
            if spec.id in self._open:
                raise AlreadyExists(f"Collection `{spec.id}` already exists.", reason="COLLECTION_EXISTS", field="id")
            if os.path.lexists(folder):
                raise AlreadyExists(
                    f"The folder of collection `{spec.id}` exists but is not open; restart the server to load it.",
                    reason="COLLECTION_EXISTS",
                    field="id",
                )
            unfinished = self._root / f"{NEW}{spec.id}"
            made = unfinished
            try:
                remove(unfinished)  # left by an attempt that could open no file to remove it
                unfinished.mkdir()
                Store.create(unfinished / FILE_NAME, spec, vfs=self._options.vfs, key=self._primary)
                sync_folder(unfinished)
                made = unfinished.rename(folder)
                sync_folder(self._root)
                collection = Collection(folder, self._options)
            except BaseException as error:
                discard(made)
                if isinstance(error, OSError) and error.errno in NO_ROOM:
                    raise StorageFull(
                        f"The disk has no room for collection `{spec.id}`.", reason="DISK_FULL"
                    ) from error
                if isinstance(error, OSError) and error.errno in EXHAUSTED:
                    raise no_more_files(error.errno) from error
                raise
            self._open[spec.id] = collection
            return collection

    def get(self, collection_id: str, *, visible: Callable[[str], bool] | None = None) -> Collection:
        """Returns a collection.

        Args:
            collection_id: its id.
            visible: whether an error may name a collection; None for all.

        Raises:
            NotFound: there is none with that id; the error names those that exist.
            DataLoss: it is damaged.
            FailedPrecondition: it is not encrypted, and must be; or it is, and its key is missing.
        """
        found = self._open.get(collection_id)
        if found is None:
            raise self._not_found(collection_id, visible)
        if isinstance(found, Refused):
            raise type(found)(found.message, reason=found.reason)
        return found

    def list(self) -> list[tuple[str, Collection | Refused]]:
        """Returns all collections by id; for one that stays closed, what is wrong with it."""
        return sorted(self._open.copy().items(), key=lambda one: one[0])

    def delete(self, collection_id: str, *, visible: Callable[[str], bool] | None = None) -> None:
        """Deletes a collection with its contents, even a closed one. It is gone from the disk when this returns.

        Args:
            collection_id: its id.
            visible: whether an error may name a collection; None for all.

        Raises:
            NotFound: there is none with that id.
            DataLoss: its folder is a symbolic link; it is not changed.
            OSError: part of it can't be removed; deleting it can be retried.
        """
        with self._changing:
            # Until then it is not known whether it goes.
            self._changing.wait_for(lambda: collection_id not in self._leaving)
            self._check_open()
            found = self._open.get(collection_id)
            if found is None:
                raise self._not_found(collection_id, visible)
            folder, doomed = self._root / collection_id, self._root / f"{DELETED}{collection_id}"
            check_no_link(folder)
            del self._open[collection_id]
            self._leaving.add(collection_id)
        try:
            # Its last writes, perhaps a purge, may take long: nobody else waits for them.
            if isinstance(found, Collection):
                found.close(snapshot=False)
            remove(doomed)
            with suppress(FileNotFoundError):  # someone else removed it first
                folder.rename(doomed)
            sync_folder(self._root)
            remove(doomed)
        except BaseException:
            # It is closed and partly there; deleting it can be retried, and the next start removes it.
            self._open[collection_id] = found
            raise
        finally:
            with self._changing:
                self._leaving.discard(collection_id)
                self._changing.notify_all()
        del found
        give_back_freed()

    def close(self, *, until: float = math.inf) -> None:
        """Closes all collections (`Collection.close`), even if some fail to close, and releases the folder.

        If one has to be left open at `until`, the folder stays locked until the end of the process.
        """
        until = max(until, time.monotonic() + _LEAST_CLOSING_S)
        with self._changing, ExitStack() as closing:  # last first
            if self._closed:
                return
            self._closed = True
            left_open: list[Collection] = []
            closing.callback(self._release, left_open, until)
            opened = [found for found in self._open.values() if isinstance(found, Collection)]
            # Those that are being purged have the time that the others leave.
            for found in sorted(opened, key=lambda one: not one.is_purging):
                closing.callback(_close, found, until, left_open)

    def _release(self, left_open: Sequence[Collection], until: float) -> None:
        timeout_s = None if until == math.inf else until - time.monotonic()
        if self._changing.wait_for(lambda: not self._leaving, timeout_s) and not left_open:
            self._lock.close()

    def _opened(self, folder: Path) -> Collection | Refused:
        try:
            check_no_link(folder)
            collection = Collection(folder, self._options)
        except (DataLoss, FailedPrecondition) as error:
            if error.reason != "KEY_MISSING":  # `_check_keys` reports it
                _log.error("%s", error.message)
            # Kept without the frames that it came through, which hold all that was read of the collection.
            return type(error)(error.message, reason=error.reason)
        except (PermissionError, Unavailable) as error:
            if isinstance(error, Unavailable) and error.reason not in {"COLLECTION_BUSY", "COLLECTION_READ_ONLY"}:
                raise
            _log.exception("can't open collection `%s`", folder.name)
            busy = isinstance(error, Unavailable) and error.reason == "COLLECTION_BUSY"
            return (locked if busy else unreadable)(folder / FILE_NAME)
        if collection.spec.id == folder.name:
            self._tell_key(collection)
            return collection
        collection.close(snapshot=False)
        damage = DataLoss(
            f"Collection `{folder.name}` holds the file of collection `{collection.spec.id}`; nothing was changed.",
            reason="COLLECTION_DAMAGED",
        )
        _log.error("%s", damage.message)
        return damage

    def _check_keys(self) -> None:
        """Logs which collections stay closed because their keys are missing.

        Raises:
            FailedPrecondition: none of the encrypted ones is open.
        """
        found = [one for _, one in self.list()]
        missing = [one for one in found if isinstance(one, Refused) and one.reason == "KEY_MISSING"]
        if missing and not any(isinstance(one, Collection) and one.key_id is not None for one in found):
            raise missing[0]
        for error in missing:
            _log.error("%s", error.message)

    def _tell_key(self, collection: Collection) -> None:
        """Warns if a collection is not encrypted as a new one would be."""
        if self._primary is not None and collection.key_id != self._primary.id:
            how = "not encrypted" if collection.key_id is None else f"encrypted with the key {collection.key_id}"
            _log.warning(
                "collection `%s` is %s, and the primary key is %s: `twinsight rekey` changes that",
                collection.spec.id,
                how,
                self._primary.id,
            )

    def _not_found(self, collection_id: str, visible: Callable[[str], bool] | None) -> NotFound:
        return NotFound.among(
            "Collection",
            collection_id,
            filter(visible, self._open.copy()),
            reason="COLLECTION_NOT_FOUND",
            field="collection",
        )

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("The data folder is closed.", reason="CATALOG_CLOSED")


def _close(collection: Collection, until: float, left_open: list[Collection]) -> None:
    is_closed = False
    try:
        is_closed = collection.close(until=until)
        if not is_closed:
            _log.warning("collection `%s` is left open: it still writes, indexes or erases", collection.spec.id)
    except Exception:
        is_closed = True  # as far as it can be; after Ctrl-C its threads may still be at work
        raise
    finally:
        if not is_closed:
            left_open.append(collection)
