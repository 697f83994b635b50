"""A real file system that is small enough to fill, where the system lets one be mounted."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SIZE = 2 << 20


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system.

    Attributes:
        folder: where.
    """

    folder: Path

    def fill(self, left: int) -> None:
        """Takes all room but `left` bytes."""
        ballast = self.folder / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        with ballast.open("r+b") as file:
            file.truncate(max(0, ballast.stat().st_size - left))

    def make_room(self) -> None:
        """Gives the room back."""
        (self.folder / "ballast").unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk | None]:
    """Mounts a file system of 2 MiB in a folder meanwhile; yields None where the system does not allow it."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "none", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield SmallDisk(folder)
    finally:
        # Lazily, so that a file left open does not keep it.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
