"""Removes collections from a backup.

1. The manifest is rewritten without them, atomically and durably. It never names what does not exist, so that the rest
   can be restored whatever happens.
2. Their folders are removed. A crash before that leaves folders that the manifest does not name. Restoring ignores
   them; removing the collections again deletes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from twinsight_core.errors import NotFound
from twinsight_core.host.whole_files import rewrite_whole, rewriting, sync_folder
from twinsight_core.items import is_collection_id
from twinsight_core.storage.backups import MANIFEST, Backup, backup_damaged, manifest_of, read_manifest
from twinsight_core.storage.data_folder import link_in, remove
from twinsight_core.storage.store import FILE_NAME


def take_out(backup: Path, ids: Sequence[str]) -> Backup:
    """Removes collections from a backup; nothing of them is left in it when this returns.

    Args:
        backup: the backup's folder.
        ids: the collections. One that the manifest does not name may be left from an interrupted removal.

    Returns:
        The remaining backup.

    Raises:
        NotFound: the folder is not a backup, or has no such collection; nothing was changed.
        DataLoss: the manifest is damaged, or of a later version, or a collection's folder or file is a symbolic link,
            whose removal would leave its target; nothing was changed.
        OSError: something can't be written or removed; it can be repeated.
    """
    read_manifest(backup)  # fails early, before waiting for the lock
    with rewriting(backup / MANIFEST) as manifest:
        before = read_manifest(backup)
        there = {entry.id for entry in before.collections}
        known = {*there, *left_over(backup, before)}
        for name in ids:
            if name not in known:
                raise NotFound.among("Collection", name, known, reason="COLLECTION_NOT_FOUND")
            if (link := link_in(backup / name)) is not None:
                what = "folder" if link == backup / name else "file"
                raise backup_damaged(
                    backup,
                    f"`{link.relative_to(backup)}` is a symbolic link. Nothing was changed; put the {what} in the "
                    "link's place.",
                )
        after = replace(before, collections=tuple(one for one in before.collections if one.id not in ids))
        if after != before:
            rewrite_whole(manifest, manifest_of(after))
    # Its name is durable too, now that `rewriting` has ended.
    for name in ids:
        remove(backup / name)
    sync_folder(backup)
    return after


def left_over(backup: Path, manifest: Backup) -> list[str]:
    """Returns collections' folders in a backup that its manifest does not name: left by interrupted removals."""
    named = {entry.id for entry in manifest.collections}
    return [
        one.name
        for one in sorted(backup.iterdir())
        if one.name not in named
        and is_collection_id(one.name)
        and one.is_dir()
        and all(file.name.startswith(FILE_NAME) for file in one.iterdir())
    ]
