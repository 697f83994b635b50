"""The data folder, which belongs to one process at a time, and the names in it.

    LOCK                         held, as the folder itself is, as long as it is in use
    collections/<id>/store.db    the record (`twinsight_core.storage.store`)
    collections/<id>/graph-*     copies of the graph (`twinsight_core.storage.snapshots`)
    collections/.new-*           being created, restored or encrypted anew: not there yet
    collections/.deleted-*       deleted: no longer there
    collections/.replaced-*      what such a collection takes the place of

A collection appears and disappears by the renaming of its folder, so that it is there whole or not at all.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from twinsight_core.errors import DataLoss, StartupError
from twinsight_core.host.whole_files import sync_folder
from twinsight_core.items import is_collection_id
from twinsight_core.storage.store import FILE_NAME

COLLECTIONS = "collections"
TEMPORARY = "tmp"
NEW, DELETED, REPLACED = ".new-", ".deleted-", ".replaced-"
_log = logging.getLogger("twinsight.collection")


def make_durable(root: Path) -> None:
    """Makes the folder `collections`, and those above it, so that a power cut takes none of their names away.

    Raises:
        OSError: one can't be made.
    """
    above = [one for one in root.parents if not one.exists()]
    # Vectors and metadata are the server's alone to read, and the folder its alone to lock.
    root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not root.exists():
        root.mkdir(exist_ok=True, mode=0o700)
        give_to_owner(root, of=root.parent)
    # The folder's own name also where an earlier run made it, which may have been killed before this.
    for parent in {root.parent, *(one.parent for one in above)}:
        sync_folder(parent)


def give_to_owner(made: Path, *, of: Path) -> None:
    """Gives what root made, and all that is in it, to the owner of a folder: the server that it is for may be another.

    Raises:
        OSError: it can't be given, as on some network file systems.
    """
    if os.geteuid() == 0:
        owner = of.stat()
        for one in (made, *made.rglob("*")):
            os.chown(one, owner.st_uid, owner.st_gid, follow_symlinks=False)


def taken(data_dir: Path) -> ExitStack:
    """Takes a data folder, and returns what gives it back when it is closed.

    The folder itself is locked, since a file in it may be removed by who tidies up; `LOCK` as well, which is what
    older releases go by. The system gives both back when the process ends, however it ends.

    Raises:
        StartupError: another process has it.
        OSError: the folder is not there, or not writable.
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
                if path != data_dir:  # some network file systems lock files alone
                    raise
        return held.pop_all()


def collection_folders(root: Path) -> list[Path]:
    """Returns the folders under `collections` that hold a collection each, sound or not, and links, by name.

    What has a name that no collection can have, and holds none (`lost+found`, say), is somebody else's.
    """
    found: list[Path] = []
    for one in sorted(root.iterdir()):
        if one.name.startswith(".") or not (one.is_dir() or one.is_symlink()):
            continue
        # Not Path.exists, which raises where a folder may not be looked into.
        if is_collection_id(one.name) or os.path.exists(one / FILE_NAME):  # noqa: PTH110
            found.append(one)
        else:
            _log.warning("Folder %a is passed over: it holds no collection, and none has such an id.", one.name)
    return found


def check_no_link(folder: Path) -> None:
    """Checks that a collection's folder is no symbolic link, of which a removal would leave what it leads to.

    Raises:
        DataLoss: it is one.
    """
    if folder.is_symlink():
        raise DataLoss(
            f"Collection `{folder.name}` can't be used: its folder is a symbolic link, and must be a folder in "
            f"`{COLLECTIONS}` itself. Nothing was changed; stop the server and move the folder to the link's place.",
            reason="COLLECTION_LINKED",
        )


def remove(path: Path) -> None:
    """Removes a folder with all that is in it, or a file or link; nothing where there is none.

    Raises:
        OSError: something can't be removed.
    """
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def discard(path: Path) -> None:
    """Removes what a failure leaves, as `remove` does; what stays is told in the log instead of hiding the failure."""
    try:
        remove(path)
    except OSError as error:
        _log.warning("`%s` can't be removed: %s", path, error)


def remove_leftovers(root: Path) -> None:
    """Undoes under `collections` what was cut short; the data folder is taken.

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
    """Puts the new folder of a collection, which is on disk, in its place, and removes what was there.

    It belongs to whom the data folder belongs to, also where root runs `restore` or `rekey`. After a crash the next
    `remove_leftovers` leaves the old or the new. It also raises where what was there could not be removed, which does
    not end this: the new is in place.
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
