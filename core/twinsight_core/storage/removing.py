"""Taking collections out of a backup.

1. The manifest is written anew, whole and durably, without them. It never names what is not there, so that what is left
   can be restored whatever happens.
2. Their folders are removed. A crash before that leaves some that the manifest does not name, which restoring passes
   over; taking them out again removes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from twinsight_core.errors import NotFound
from twinsight_core.host.whole_files import rewrite_whole, rewriting, sync_folder
from twinsight_core.items import is_collection_id
from twinsight_core.storage.backups import MANIFEST, Backup, backup_damaged, manifest_of, read_manifest
from twinsight_core.storage.data_folder import remove
from twinsight_core.storage.store import FILE_NAME


def take_out(backup: Path, ids: Sequence[str]) -> Backup:
    """Takes collections out of a backup; nothing of them is in it when this returns.

    Args:
        backup: the backup's folder.
        ids: the collections. One that the manifest does not name may have been left by a removal that was cut short.

    Returns:
        What is left.

    Raises:
        NotFound: the folder is no backup, or has no such collection; nothing was changed.
        DataLoss: the manifest is damaged, or of a later version, or a collection's folder is a symbolic link, of which
            a removal would leave what it leads to; nothing was changed.
        OSError: something can't be written or removed; it can be done again.
    """
    read_manifest(backup)  # or there is nothing to wait for
    with rewriting(backup / MANIFEST) as manifest:
        before = read_manifest(backup)
        there = {entry.id for entry in before.collections}
        known = {*there, *left_over(backup, before)}
        for name in ids:
            if name not in known:
                raise NotFound.among("Collection", name, known, reason="COLLECTION_NOT_FOUND")
            if (backup / name).is_symlink():
                raise backup_damaged(
                    backup, f"`{name}` is a symbolic link. Nothing was changed; put the folder in the link's place."
                )
        after = replace(before, collections=tuple(one for one in before.collections if one.id not in ids))
        if after != before:
            rewrite_whole(manifest, manifest_of(after))
    # It is durable by its name, too, now that `rewriting` has ended.
    for name in ids:
        remove(backup / name)
    sync_folder(backup)
    return after


def left_over(backup: Path, manifest: Backup) -> list[str]:
    """Returns collections' folders in a backup that its manifest does not name: of removals that were cut short."""
    named = {entry.id for entry in manifest.collections}
    return [
        one.name
        for one in sorted(backup.iterdir())
        if one.name not in named
        and is_collection_id(one.name)
        and one.is_dir()
        and all(file.name.startswith(FILE_NAME) for file in one.iterdir())
    ]
