"""The data folder, which belongs to one process at a time, and the names in it.

    LOCK                         locked, like the folder itself, as long as it is in use
    collections/<id>/store.db    the record (`twinsight_core.storage.store`)
    collections/<id>/graph-*     copies of the graph (`twinsight_core.storage.snapshots`)
    collections/.new-*           being created, restored or re-encrypted: does not exist yet
    collections/.deleted-*       deleted: no longer exists
    collections/.replaced-*      what such a new collection replaces

A collection appears and disappears by renaming its folder, so that it exists completely or not at all.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from twinsight_core.errors import DataLoss, StartupError
from twinsight_core.host.private_folders import make_private
from twinsight_core.host.whole_files import sync_folder
from twinsight_core.items import is_collection_id
from twinsight_core.storage.store import FILE_NAME

COLLECTIONS = "collections"
TEMPORARY = "tmp"
NEW, DELETED, REPLACED = ".new-", ".deleted-", ".replaced-"
_log = logging.getLogger("twinsight.collection")


def make_durable(root: Path) -> None:
    """Makes the folder `collections` and those above it, so that their names survive a power cut.

    Raises:
        OSError: one can't be made.
    """
    above = [one for one in root.parents if not one.exists()]
    # Only the server may read vectors and metadata, and lock the folder.
    make_private(root.parent, above=0o755)
    if not root.exists():
        root.mkdir(exist_ok=True, mode=0o700)
        give_to_owner(root, of=root.parent)
    # The folder's own name too: an earlier run that made it may have been killed before syncing.
    for parent in {root.parent, *(one.parent for one in above)}:
        sync_folder(parent)


def give_to_owner(made: Path, *, of: Path) -> None:
    """Gives what root made, with its contents, to the owner of a folder, since the server may run as another user.

    Raises:
        OSError: it can't be given, as on some network file systems.
    """
    if os.geteuid() == 0:
        owner = of.stat()
        for one in (made, *made.rglob("*")):
            os.chown(one, owner.st_uid, owner.st_gid, follow_symlinks=False)


def taken(data_dir: Path) -> ExitStack:
    """Locks a data folder, and returns an object whose closing releases it.

    The folder itself is locked, since a file in it may be removed by someone who cleans up; `LOCK` as well, which older
    releases rely on. The system releases both when the process ends, however it ends.

    Raises:
        StartupError: another process holds it.
        OSError: the folder does not exist, or is not writable.
    """
    with ExitStack() as held:
        for path, flags in ((data_dir, os.O_RDONLY | os.O_DIRECTORY), (data_dir / "LOCK", os.O_RDWR | os.O_CREAT)):
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
            held.callback(os.close, descriptor)
            if path != data_dir:
                give_to_owner(path, of=data_dir)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StartupError(
                    f"Data folder `{data_dir}` is in use by another server.", reason="DATA_DIR_IN_USE"
                ) from None
            except OSError:
                if path != data_dir:  # some network file systems lock only files
                    raise
        return held.pop_all()


def collection_folders(root: Path) -> list[Path]:
    """Returns the folders under `collections` that each hold a collection, sound or not, and links, by name.

    A folder that holds no collection and whose name can't be one's (`lost+found`, say) is not ours.
    """
    found: list[Path] = []
    for one in sorted(root.iterdir()):
        if one.name.startswith(".") or not (one.is_dir() or one.is_symlink()):
            continue
        # Not Path.exists, which raises if the folder may not be read.
        if is_collection_id(one.name) or os.path.exists(one / FILE_NAME):  # noqa: PTH110
            found.append(one)
        else:
            _log.warning("ignoring folder %a: it holds no collection, and its name is not a collection id", one.name)
    return found


def check_no_link(folder: Path) -> None:
    """Checks that neither a collection's folder nor its file is a symbolic link, whose removal would leave its target.

    Raises:
        DataLoss: one is.
    """
    if (link := link_in(folder)) is not None:
        what, where = ("folder", COLLECTIONS) if link == folder else ("file", f"{COLLECTIONS}/{folder.name}")
        raise DataLoss(
            f"Collection `{folder.name}` can't be used: its {what} is a symbolic link, and must be a real {what} in "
            f"`{where}`. Nothing was changed; stop the server and move the {what} to the link's place.",
            reason="COLLECTION_LINKED",
        )


def link_in(folder: Path) -> Path | None:
    """Returns a collection's folder, or else its file, if that is a symbolic link; None if neither is one."""
    # Not Path.is_symlink, which raises if the folder may not be read.
    return next((one for one in (folder, folder / FILE_NAME) if os.path.islink(one)), None)  # noqa: PTH114


def remove(path: Path) -> None:
    """Removes a folder with its contents, or a file or link; does nothing if there is none.

    Raises:
        OSError: something can't be removed.
    """
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def discard(path: Path) -> None:
    """Removes what a failure leaves, as `remove` does, but logs its own failure instead of hiding the first."""
    try:
        remove(path)
    except OSError as error:
        _log.warning("can't remove `%s`: %s", path, error)


def remove_leftovers(root: Path) -> None:
    """Undoes interrupted operations under `collections`; the data folder must be locked.

    Raises:
        OSError: something can't be removed or put back.
    """
    for prefix in (NEW, DELETED):
        for leftover in root.glob(f"{prefix}*"):
            remove(leftover)
    for leftover in root.glob(f"{REPLACED}*"):
        place = root / leftover.name.removeprefix(REPLACED)
        if leftover.is_file() or os.path.lexists(place):
            remove(leftover)
        else:
            leftover.rename(place)


def put_in_place(root: Path, name: str) -> None:
    """Puts a collection's new folder, which is durable, in its place, and removes the old one.

    It gets the owner of the data folder, even if root runs `restore` or `rekey`. After a crash the next
    `remove_leftovers` leaves the old or the new. It also raises if the old one can't be removed; the new one is in
    place then.
    """
    place, aside = root / name, root / f"{REPLACED}{name}"
    give_to_owner(root / f"{NEW}{name}", of=root)
    if os.path.lexists(place):
        place.rename(aside)
        sync_folder(root)
    (root / f"{NEW}{name}").rename(place)
    sync_folder(root)
    with suppress(OSError):
        remove(aside)
