"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image

PRIVATE, USUAL = 0o600, 0o666
"""Permissions: the owner's alone, or what the umask leaves."""
_JPEG_QUALITY = 92
_OPEN_FILE = re.compile(r"/dev/(fd/|stdin|stdout|stderr)|/proc/[^/]+/(task/[^/]+/)?fd/")
_MOST_LINKS = 40


@contextmanager
def whole_file(out: Path, *, mode: int = PRIVATE) -> Iterator[BinaryIO]:
    """Yields a file; at the end it replaces `out`, or on failure is removed.

    Args:
        out: where it goes; of a link, what that leads to is replaced.
        mode: its permissions, less the umask, where the system has such.

    Raises:
        OSError: it can't be written; names `out`.
    """
    target = _replaceable(out)
    try:
        # A short name: that of `target` may be as long as names can be.
        partial = target.with_name(f".twinsight-{secrets.token_hex(8)}")
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
            _sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:  # a full disk's error names no file, others name the temporary file
        raise OSError(error.errno, error.strerror, str(out)) from error


def check_replaceable(out: Path) -> None:
    """Raises OSError if `whole_file` can't write to `out`: before the work, not after it."""
    folder = _replaceable(out).parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(out))
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(out))


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture, in the format that the name's suffix stands for.

    Raises:
        OSError: the disk is full, or the path is not writable.
        ValueError: the suffix stands for no format, or the picture is too large for it.
    """
    suffix = path.suffix.lower()
    form = Image.registered_extensions().get(suffix)
    if form is None:
        raise ValueError(f"unknown file extension: {suffix}")
    if path.exists() and not (path.is_file() and os.access(path.parent, os.W_OK) and not _is_open_file(path)):
        # A device, what is open as the standard output, or a file in a folder that takes no other.
        picture.save(path, format=form, quality=_JPEG_QUALITY)
        return
    with whole_file(path, mode=USUAL) as file:
        picture.save(file, format=form, quality=_JPEG_QUALITY)


def _replaceable(out: Path) -> Path:
    """Returns the path that `out` leads to.

    Raises:
        OSError: no file can be there, or something else is: a device or a pipe would be gone for everyone who uses it,
            and so would be what others wrote to a file that is open as the standard output.
    """
    target = Path(os.path.realpath(out))
    try:
        is_file = stat.S_ISREG(target.stat().st_mode)
    except FileNotFoundError:
        is_file = True
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error
    if not is_file or _is_open_file(out):
        raise OSError(errno.EINVAL, "not a regular file", str(out))
    return target


def _is_open_file(out: Path) -> bool:
    """Returns whether a path is of a file that a process has open, perhaps through links."""
    step = Path(os.path.abspath(out))  # noqa: PTH100 - links stay
    for _ in range(_MOST_LINKS):
        if _OPEN_FILE.match(str(step)):
            return True
        if not step.is_symlink():
            break
        step = Path(os.path.normpath(step.parent / step.readlink()))
    return False


def _sync_folder(folder: Path) -> None:
    """Makes a rename last through a power cut, where the system lets a folder be opened: Windows does not."""
    with suppress(OSError):  # the file is in its place
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
