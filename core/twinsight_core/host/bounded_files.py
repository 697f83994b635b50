"""Files of others, read within a limit: regular files alone, and no more of them than they may have."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


class FileTooLarge(OSError):
    """A file has more bytes than it may; `strerror` says how many."""

    def __init__(self, path: Path, size: int, limit: int) -> None:
        super().__init__(errno.EFBIG, f"the file has {size} bytes; it may have {limit}", str(path))


def open_bounded(path: Path, limit: int) -> BinaryIO:
    """Opens a regular file that has at most `limit` bytes, for reading.

    What is looked at is what was opened. A pipe is not waited for, and a device, which may have no end, is not read.

    Raises:
        FileTooLarge: it has more.
        OSError: it can't be opened, or is no regular file.
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
        OSError: it can't be read, is no regular file, or grew meanwhile.
    """
    with open_bounded(path, limit) as file:
        size = min(os.fstat(file.fileno()).st_size, limit)
        content = file.read(size + 1)
    if len(content) > size:
        raise OSError(errno.EBUSY, "it grew while it was read", str(path))
    return content
