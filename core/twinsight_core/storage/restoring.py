"""Restores a backup's collections to a data folder that no server uses.

1. The data folder is created if it does not exist, and locked, both as a server does it.
2. Every collection is copied beside its place, and the copy's digest and rows are checked, before any is put in place.
3. Each is renamed into place. The collection that it replaces is set aside first and removed last, so that a crash
   leaves the old or the new.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twinsight_core.errors import AlreadyExists, DataLoss, StorageFull
from twinsight_core.host.whole_files import NO_ROOM
from twinsight_core.storage.backups import BackupEntry, backup_damaged, digest_of, read_manifest, settled
from twinsight_core.storage.choosing import chosen
from twinsight_core.storage.data_folder import (
    COLLECTIONS,
    NEW,
    check_no_link,
    discard,
    make_durable,
    put_in_place,
    remove_leftovers,
    taken,
)
from twinsight_core.storage.store import FILE_NAME


@dataclass(frozen=True)
class Restored:
    """A collection that was put in place.

    Attributes:
        id: its id.
        item_count: items in it.
        key_id: id of the key that it is encrypted with, which a server needs; None if it is not encrypted.
    """

    id: str
    item_count: int
    key_id: str | None


def restore(
    backup: Path,
    data_dir: Path,
    *,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    replace: bool = False,
) -> list[Restored]:
    """Restores collections of a backup to a data folder, which is created if it does not exist.

    None is put in place unless all were copied and are sound. They are put in place one after another: after an error
    in that step some are restored, and the others are as they were from the next start on. With `replace` it can be
    repeated.

    Args:
        backup: the backup's folder.
        data_dir: the data folder.
        only: ids of the collections, or patterns of them; empty for all of the backup.
        exclude: ids and patterns of those to leave out.
        replace: overwrite existing collections.

    Returns:
        What was restored.

    Raises:
        StartupError: a server uses the data folder.
        NotFound: the folder is not a backup, or has no such collection.
        AlreadyExists: a collection exists, and `replace` is false.
        DataLoss: the backup is damaged, or of a later version, or a collection to replace is a symbolic link; nothing
            was put in place.
        StorageFull: the disk has no room; nothing was put in place.
        OSError: a folder can't be read or written, and nothing was put in place unless that step failed; or a replaced
            collection can't be removed, and everything is in place.
    """
    by_id = {entry.id: entry for entry in read_manifest(backup).collections}
    entries = [by_id[name] for name in chosen(by_id, only=only, exclude=exclude)]
    root = data_dir / COLLECTIONS
    make_durable(root)
    with taken(data_dir):
        remove_leftovers(root)
        for entry in entries:
            if not replace and os.path.lexists(root / entry.id):
                raise AlreadyExists(
                    f"Collection `{entry.id}` already exists; nothing was restored.", reason="COLLECTION_EXISTS"
                )
            check_no_link(root / entry.id)
        try:
            done = [_copy(backup, entry, root / f"{NEW}{entry.id}") for entry in entries]
        except BaseException:
            for entry in entries:
                discard(root / f"{NEW}{entry.id}")
            raise
        for entry in entries:
            put_in_place(root, entry.id)
        remove_leftovers(root)  # raises if a replaced collection can't be removed
    return done


def _copy(backup: Path, entry: BackupEntry, target: Path) -> Restored:
    """Copies a collection's file, checks the copy, and returns its description."""
    name = f"{entry.id}/{FILE_NAME}"
    target.mkdir()
    copy = target / FILE_NAME
    try:
        shutil.copyfile(backup / entry.id / FILE_NAME, copy)
    except FileNotFoundError:
        raise backup_damaged(backup, f"`{name}` is missing; nothing was restored.") from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        # The error would name the file that is read.
        raise StorageFull(
            f"The disk of the data folder has no room for collection `{entry.id}`; nothing was restored.",
            reason="DISK_FULL",
        ) from error
    size = copy.stat().st_size
    if size != entry.size:
        raise backup_damaged(backup, f"`{name}` has {size} bytes instead of {entry.size}; nothing was restored.")
    if digest_of(copy) != entry.sha256:
        raise backup_damaged(backup, f"`{name}` does not match its digest; nothing was restored.")
    try:
        head = settled(copy)
    except DataLoss as error:
        if error.reason == "STORE_TOO_NEW":
            raise
        raise backup_damaged(
            backup, f"the rows of `{name}`, or its tables, are not those that were written."
        ) from error
    if (head.spec.id, head.item_count, head.next_seq) != (entry.id, entry.item_count, entry.next_seq):
        raise backup_damaged(backup, f"`{name}` does not hold what the manifest says; nothing was restored.")
    return Restored(entry.id, entry.item_count, None if head.seal is None else head.seal.key_id)
