"""Reads untrusted files within a limit: only regular files, and no more than a number of bytes."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


class FileTooLarge(OSError):
    """A file has too many bytes; `strerror` says how many."""

    def __init__(self, path: Path, size: int, limit: int) -> None:
        super().__init__(errno.EFBIG, f"the file has {size} bytes; the limit is {limit}", str(path))


def open_bounded(path: Path, limit: int) -> BinaryIO:
    """Opens a regular file of at most `limit` bytes for reading.

    The checks apply to the opened file itself. It never waits for a pipe, or reads a device, which may be endless.

    Raises:
        FileTooLarge: it has more.
        OSError: it can't be opened, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if found.st_size > limit:
            raise FileTooLarge(path, found.st_size, limit)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, limit: int) -> bytes:
    """Returns the bytes of a regular file that has at most `limit`.

    Raises:
        FileTooLarge: it has more.
        OSError: it can't be read, is not a regular file, or grew meanwhile.
    """
    with open_bounded(path, limit) as file:
        size = min(os.fstat(file.fileno()).st_size, limit)
        content = file.read(size + 1)
    if len(content) > size:
        raise OSError(errno.EBUSY, "it grew while it was read", str(path))
    return content
