"""Encrypts a data folder for the first time or with another key, or decrypts it.

A collection's file has one key for its whole life. Changing the key rewrites the file beside its place and moves it
there as `restoring` does: a killed process leaves each collection either old or new, and the next run continues with
the remaining ones. The old file is removed with its log, its free pages and its graphs, and so is what a killed run
left of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from twinsight_core.errors import DataLoss, FailedPrecondition, NotFound, StorageFull, TwinsightError
from twinsight_core.host.whole_files import NO_ROOM, sync_folder
from twinsight_core.sealing.keyring import Key, Keyring
from twinsight_core.storage import snapshots
from twinsight_core.storage.data_folder import (
    COLLECTIONS,
    NEW,
    check_no_link,
    collection_folders,
    discard,
    put_in_place,
    remove_leftovers,
    taken,
)
from twinsight_core.storage.records import Changes
from twinsight_core.storage.sqlite import damaged
from twinsight_core.storage.store import FILE_NAME, Store

_log = logging.getLogger("twinsight.collection")


@dataclass(frozen=True)
class Rekeyed:
    """The outcome for a collection.

    Attributes:
        id: its id.
        item_count: items in it.
        before: id of the key that it was encrypted with; None if it was not encrypted.
        after: id of the key that it is encrypted with now; the same as `before` if there was nothing to do.
    """

    id: str
    item_count: int
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Failed:
    """A collection that was not changed.

    Attributes:
        id: its id.
        error: why: it is damaged, its folder is a link, or its key is missing.
    """

    id: str
    error: TwinsightError


def rekey(
    data_dir: Path,
    keyring: Keyring,
    *,
    decrypt: bool = False,
    on_done: Callable[[Rekeyed | Failed], None] = lambda _: None,
) -> list[Rekeyed | Failed]:
    """Encrypts each collection of a data folder that no server uses with the primary key, unless it already is.

    Args:
        data_dir: the data folder.
        keyring: has the keys that they are encrypted with now.
        decrypt: store their contents unencrypted instead.
        on_done: called with the outcome for each at once: what is done stays done if a later one raises.

    Returns:
        The outcome for each. Unless one failed, nothing in the folder needs a key other than the primary any more.

    Raises:
        NotFound: there is no data folder.
        StartupError: a server uses it.
        StorageFull: the disk has no room for a copy of one, which is named; the next run continues.
        OSError: a file can't be read or written; the next run continues.
    """
    root = data_dir / COLLECTIONS
    if not root.is_dir():
        raise NotFound(f"`{data_dir}` is not a data folder: it has no `{COLLECTIONS}`.", reason="DATA_DIR_NOT_FOUND")
    key = None if decrypt else keyring.primary
    done: list[Rekeyed | Failed] = []
    with taken(data_dir):
        remove_leftovers(root)
        for folder in collection_folders(root):
            try:
                done.append(_rekeyed(root, folder, keyring, key))
            except (DataLoss, FailedPrecondition) as error:
                done.append(Failed(folder.name, error))
            except StorageFull as error:
                raise _not_copied(folder.name, error.reason) from error
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                raise _not_copied(folder.name, "DISK_FULL") from error
            on_done(done[-1])
        # Again, since here the replaced files must be gone.
        remove_leftovers(root)
        sync_folder(root)
    return done


def _rekeyed(root: Path, folder: Path, keyring: Keyring, key: Key | None) -> Rekeyed:
    check_no_link(folder)
    with closing(Store(folder / FILE_NAME, keyring=keyring)) as store:
        if store.spec.id != folder.name:
            raise damaged(folder / FILE_NAME, f"it is the file of collection `{store.spec.id}`")
        done = Rekeyed(store.spec.id, store.item_count, store.key_id, None if key is None else key.id)
        if done.before == done.after:
            return done
        unfinished = root / f"{NEW}{folder.name}"
        try:
            unfinished.mkdir()
            Store.create(unfinished / FILE_NAME, store.spec, key=key)
            with closing(Store(unfinished / FILE_NAME, keyring=keyring)) as new:
                _copy(store, new)
                _copy_graph(folder, store, unfinished, new)
            sync_folder(unfinished)
        except BaseException:
            discard(unfinished)
            raise
    put_in_place(root, folder.name)
    return done


def _not_copied(collection_id: str, reason: str) -> StorageFull:
    why = "has no room for" if reason == "DISK_FULL" else "did not take"
    return StorageFull(
        f"The disk {why} another copy of collection `{collection_id}`, which stays as it is. Mend that and run the "
        "command again to continue.",
        reason=reason,
    )


def _copy(store: Store, new: Store) -> None:
    """Copies a store's contents to an empty one."""
    count = 0
    for items in store.scan():
        count += len(items)
        new.commit(Changes([], items, {}, items[-1].seq + 1, count))
    new.commit(Changes([], [], store.ingests, store.next_seq, count))


def _copy_graph(folder: Path, store: Store, new_folder: Path, new: Store) -> None:
    if store.purging:
        return  # a graph may hold data that is to be erased
    try:
        snapshots.carry_over(folder, store, new_folder, new)
    except DataLoss as error:
        _log.warning("collection `%s`: can't copy its graph, which will be rebuilt: %s", store.spec.id, error)
