"""Room for the vectors of an exact index: in memory, or in a file that the kernel keeps in memory while there is room.

A walk of the graph, which has vectors of its own, looks at a few rows to score what it found; only exact searches and
the building of graphs look at all. So rows may lie in a file: what was not looked at for a while is then in the page
cache at most, which the kernel gives to others when they need it, and a collection may be larger than the memory.
"""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
import weakref
from pathlib import Path

import numpy as np

_LOG = logging.getLogger("twinsight.collection")


class RowMemory:
    """Room for vectors that are appended and never changed. Arrays taken from it stay as they are when it grows.

    Attributes:
        rows: `[capacity, dimension] float32`.
    """

    def __init__(self, dimension: int, capacity: int, *, folder: Path | None = None) -> None:
        """Makes room.

        Args:
            dimension: of the vectors.
            capacity: how many, at least 1.
            folder: where the file lies, which has no name and is gone with the process; None: they are in memory.
        """
        self._dimension = dimension
        self._file = None if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as this
        if self._file is not None:
            weakref.finalize(self, self._file.close)
        self._mapped: mmap.mmap | None = None
        self.rows = self._room(capacity)

    def grow(self, capacity: int) -> None:
        """Makes room for more; what was written stays."""
        before, was_mapped = self.rows, self._mapped is not None
        self.rows = self._room(capacity)
        if not (was_mapped and self._mapped):  # one file is behind both
            self.rows[: len(before)] = before

    def release(self) -> None:
        """Lets the kernel have the memory of rows that lie in a file; they come back when they are looked at."""
        if self._mapped is not None:
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def _room(self, capacity: int) -> np.ndarray:
        if self._file is not None:
            size = capacity * self._dimension * np.dtype(np.float32).itemsize
            try:
                # With its blocks: the process would end on writing to a hole that the disk has no room for.
                os.posix_fallocate(self._file.fileno(), 0, size)
                self._mapped = mmap.mmap(self._file.fileno(), size)
            except OSError as error:
                _LOG.warning("Vectors are kept in memory instead of on disk: %s", error)
                self._mapped = self._file = None  # arrays that were taken keep their mapping
            else:
                return np.frombuffer(self._mapped, np.float32).reshape(capacity, self._dimension)
        return np.empty((capacity, self._dimension), np.float32)
