"""Files that are written whole or not at all, and what makes them durable."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, content: bytes, *, mode: int = 0o644, durable: bool = False) -> None:
    """Writes a file; what was there stays until all of the new is.

    Args:
        path: in a folder that is there.
        content: all of it.
        mode: the file's permissions.
        durable: whether it is on disk before it takes the place of the old; what can be made again need not be. Its
            name is durable once its folder is synced.
    """
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(partial).chmod(mode)
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)


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
