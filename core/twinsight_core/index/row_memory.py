"""Storage for the rows of an exact index: in memory, or in a file that the kernel caches while there is room.

A graph search, which has its own vectors, reads a few rows to score what it found; only exact searches and building
graphs read all. So rows may be kept in a file: rows that were not read for a while are then at most in the page cache,
which the kernel reclaims when needed, and a collection may be larger than memory. No more than some MiB of the file are
mapped into the process at a time: before more is read, the earlier part is released.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

VectorCopy = Literal["float32", "int8"]
"""What exact searches scan."""
MAPPED_BYTES = 4 << 20
"""Of a file, in the process at a time, about."""
# Of a file come into a process when it looks at one byte of its mapping (Linux: fault_around_bytes), and where the page
# cache has them in one piece. To read a row that lies alone takes no longer than to map so much: 1.8 us.
_FAULT_BYTES, _MOST_FAULT_BYTES = 64 << 10, 2 << 20
_FEW_ROWS = 64
_LOG = logging.getLogger("twinsight.collection")


@dataclass(frozen=True, slots=True)
class RowPlaces:
    """Where the vectors beside a graph lie, and in which form.

    Attributes:
        vectors: folder of the file that they lie in; None: they are in memory.
        scanned: `int8`: exact searches scan a copy in a quarter of the bytes, and read the vectors of what it leaves.
        scanned_in: folder of the file that the copy lies in; None: it is in memory.
    """

    vectors: Path | None = None
    scanned: VectorCopy = "float32"
    scanned_in: Path | None = None


IN_MEMORY = RowPlaces()


class RowMemory:
    """Room for rows that are appended and never changed. Arrays taken from it stay as they are when it grows.

    Attributes:
        rows: `[capacity, dimension]`.
    """

    def __init__(
        self, dimension: int, capacity: int, *, folder: Path | None = None, dtype: DTypeLike = np.float32
    ) -> None:
        """Makes room.

        Args:
            dimension: of the rows.
            capacity: how many, at least 1.
            folder: of the file, an unlinked temporary file that ends with the process; None to keep them in memory.
            dtype: of the components.
        """
        self._dimension = dimension
        self._dtype = np.dtype(dtype)
        self._file = None if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as this
        if self._file is not None:
            weakref.finalize(self, self._file.close)
        self._mapped: mmap.mmap | None = None
        self._looked_at = 0  # bytes that may be in the process, about: threads count without a lock
        self.rows = self._room(capacity)

    @property
    def in_file(self) -> bool:
        """Whether the rows are in a file. Without room on the disk they are not, whatever was asked for."""
        return self._mapped is not None

    def write(self, first: int, rows: np.ndarray) -> None:
        """Puts `rows: [n, dimension]` at row `first`."""
        step = max(1, MAPPED_BYTES // max(1, self.rows[:1].nbytes))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            self.look_at(self.rows, slice(first + start, first + start + len(part)))[:] = part

    def look_at(self, rows: np.ndarray, which: slice | np.ndarray) -> np.ndarray:
        """Returns `rows[which]` of an array taken from this, of a file at most some MiB at a time."""
        file = self._file
        taken: np.ndarray
        if file is None or isinstance(which, slice):
            taken = rows[which]
            if file is not None:
                self._make_way(taken.nbytes)  # which is looked at later
            return taken
        if which.size <= _FEW_ROWS:
            return _read(file.fileno(), rows, which)
        span = (int(which.max()) - int(which.min()) + 1) * rows.shape[1] * rows.itemsize
        if span > which.size * _FAULT_BYTES:
            return _read(file.fileno(), rows, which)
        taken = rows[which]
        self._make_way(span + _MOST_FAULT_BYTES)
        return taken

    def grow(self, capacity: int) -> None:
        """Makes room for more; what was written stays."""
        before, was_mapped = self.rows, self._mapped is not None
        self.rows = self._room(capacity)
        if not (was_mapped and self._mapped):  # one file is behind both
            self.rows[: len(before)] = before

    def release(self) -> None:
        """Releases the memory of rows in a file; they are loaded again when they are read."""
        mapped = self._mapped
        if mapped is not None:
            self._looked_at = 0
            mapped.madvise(mmap.MADV_DONTNEED)

    def _make_way(self, size: int) -> None:
        if self._looked_at + size > MAPPED_BYTES:
            self.release()
        self._looked_at += min(size, MAPPED_BYTES)

    def _room(self, capacity: int) -> np.ndarray:
        if self._file is not None:
            size = capacity * self._dimension * self._dtype.itemsize
            try:
                # With its blocks: the process would end on writing to a hole that the disk has no room for.
                os.posix_fallocate(self._file.fileno(), 0, size)
                self._mapped = mmap.mmap(self._file.fileno(), size)
            except OSError as error:
                _LOG.warning("keeping vectors in memory instead of on disk: %s", error)
                self._mapped = self._file = None  # arrays that were taken keep their mapping
            else:
                return np.frombuffer(self._mapped, self._dtype).reshape(capacity, self._dimension)
        return np.empty((capacity, self._dimension), self._dtype)


def _read(file: int, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Returns `rows[which]` read from the file that is behind `rows`."""
    taken = np.empty((which.size, rows.shape[1]), rows.dtype)
    row_bytes = rows.shape[1] * rows.itemsize
    for place, row in zip(taken, which.ravel().tolist(), strict=True):
        if os.preadv(file, [place.data], row * row_bytes) != row_bytes:
            raise OSError(errno.EIO, "A file of vectors has become shorter")
    return taken.reshape(*which.shape, rows.shape[1])
