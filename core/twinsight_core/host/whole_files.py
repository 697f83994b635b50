"""Writes files atomically, and makes them durable."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

LONGEST_WAIT_S = 10.0
"""For another process to have rewritten a file."""
_LOOK_S = 0.05
_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a full disk, or a quota that is used up."""


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Writes a file atomically: the old one stays until the new one is complete. Not synced, for re-creatable files.

    Args:
        path: in a folder that is there.
        content: all of it.
        mode: the file's permissions.

    Raises:
        OSError: it can't be written.
    """
    check_regular(path)
    _write(path, content, mode=mode, durable=False, there=None)


def check_regular(path: Path) -> None:
    """Raises OSError if something other than a file is there: a device or a pipe would be gone for all who use it."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def rewrite_whole(path: Path, content: bytes) -> None:
    """Writes a secret file atomically and durably, keeping the owner of the existing one.

    Owner, group and permissions are kept, so that a server can still read what root rewrites; access control lists are
    not. Only the writer can read a new file (0600). Its name is durable once its folder is synced.

    Args:
        path: in a folder that is there; no symbolic link, which would be replaced: see `rewriting`.
        content: all of it.

    Raises:
        PermissionError: the new file can't be given to the old one's owner and group; the old one is as it was.
        OSError: it can't be written.
    """
    there = path.stat() if path.exists() else None
    mode = 0o600 if there is None else stat.S_IMODE(there.st_mode) & 0o777
    _write(path, content, mode=mode, durable=True, there=there)


@contextmanager
def rewriting(path: Path) -> Iterator[Path]:
    """Yields a file's path without symbolic links, for one process at a time to rewrite.

    Concurrent processes wait for one another. At the end, files written by `rewrite_whole` have durable names.

    Raises:
        TimeoutError: another process holds it for longer than `LONGEST_WAIT_S`.
        OSError: a link is dangling or circular, or there is no such folder.
    """
    file = behind_links(path)
    descriptor = _locked(file)
    try:
        yield file
        sync_folder(file.parent)
    finally:
        os.close(descriptor)


def behind_links(path: Path) -> Path:
    """Returns a path with its symbolic links resolved; the last part need not exist.

    Raises:
        OSError: a link is dangling or circular.
    """
    return Path(os.path.realpath(path, strict=os.path.lexists(path)))


def sync_file(file: Path) -> None:
    """Makes what was written to a file durable."""
    with file.open("rb") as content:
        os.fsync(content.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchanged(one: Path, other: Path) -> bool:
    """Exchanges two files or folders in one step; returns whether the system and the file system can, as Linux's do.

    Raises:
        OSError: neither is changed.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if not rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        return True
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _locked(file: Path) -> int:
    """Returns a lock on a file; on its folder, which others may keep locked for longer, only where there is no file."""
    ends = time.monotonic() + LONGEST_WAIT_S
    while True:
        place = file if file.exists() else file.parent
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with ExitStack() as opened:
            opened.callback(os.close, descriptor)
            with suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Who had the lock before may have put another file in its place.
                is_there = place == file or not file.exists()
                if is_there and os.path.samestat(os.fstat(descriptor), place.stat()):
                    opened.pop_all()
                    return descriptor
        if time.monotonic() >= ends:
            raise TimeoutError(
                errno.ETIMEDOUT, f"another process has locked {place} for {LONGEST_WAIT_S:g} s", str(file)
            )
        time.sleep(_LOOK_S)


def _write(path: Path, content: bytes, *, mode: int, durable: bool, there: os.stat_result | None) -> None:
    """Writes a file beside its place and puts it there; `there`: whose owner and group it takes."""
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if there is not None:
                    _give(file.fileno(), path, there)
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            Path(partial).chmod(mode)
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        # A full disk's names no file, others the one beside it.
        raise OSError(error.errno, error.strerror, str(path)) from error


def _give(descriptor: int, path: Path, there: os.stat_result) -> None:
    """Gives an open file to the owner and group of the one that is at `path`."""
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) == (there.st_uid, there.st_gid):
        return
    try:
        os.fchown(descriptor, there.st_uid, there.st_gid)
    except OSError as error:
        user, group = _name(path.owner, there.st_uid), _name(path.group, there.st_gid)
        others = f", or as {user} in the group {group}" if there.st_uid else ""
        raise PermissionError(
            error.errno,
            f"belongs to {user}:{group}, to whom a new file can't be given ({error.strerror}); nothing was written. "
            f"Run this as root{others}.",
            str(path),
        ) from error


def _name(find: Callable[[], str], number: int) -> str:
    """Returns the name of a user or a group; its number where it has none."""
    try:
        return find()
    except KeyError:
        return str(number)
