"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

PRIVATE, USUAL = 0o600, 0o666
"""Permissions: the owner's alone, or what the umask leaves."""
_JPEG_QUALITY = 92


@contextmanager
def whole_file(out: Path, *, mode: int = PRIVATE) -> Iterator[BinaryIO]:
    """Yields a file; at the end it replaces `out`, or on failure is removed.

    Args:
        out: where it goes.
        mode: its permissions, less the umask.

    Raises:
        OSError: it can't be written; names `out`.
    """
    try:
        # A short name: that of `out` may be as long as names can be.
        partial = out.absolute().with_name(f".twinsight-{secrets.token_hex(8)}")
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(out)
            _sync_folder(out.absolute().parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:  # a full disk's error names no file, others name the temporary file
        raise OSError(error.errno, error.strerror, str(out)) from error


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
    if path.exists() and not (path.is_file() and os.access(path.parent, os.W_OK)):
        # A device, or a file in a folder that takes no other.
        picture.save(path, format=form, quality=_JPEG_QUALITY)
        return
    with whole_file(path, mode=USUAL) as file:
        picture.save(file, format=form, quality=_JPEG_QUALITY)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
