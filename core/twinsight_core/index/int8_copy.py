"""A copy of an exact index's rows in a quarter of their bytes, which rules out most rows as the nearest.

1. Each vector x becomes a scale s and whole numbers c of -127 to 127, so that x' = s c is near x, and what it lost by
   that, |x - x'|, is kept: by Cauchy and Schwarz |q.x - q.x'| <= |q| |x - x'| for every query q.
2. A scan turns a part of the rows into float32, small enough to stay in the processor's cache, and multiplies it.
3. Each product then has a highest and a lowest value that the true one can have. A row whose highest is less than the
   lowest of k others is none of the k nearest; those that are left are scored by their vectors.

float16 would lose less by far, but NumPy takes seven times as long to turn it into float32, which is more than the
scan of float32 itself takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twinsight_core.index.products import FEW_QUERIES, PART_PRODUCTS, multiply, parts, row_count
from twinsight_core.index.row_memory import RowMemory

_LARGEST = 127
_PART_BYTES = 256 << 10  # of float32: half of what a core's second cache has
_WRITE_COMPONENTS = 1 << 18  # of float64 at a time
_LEAST_SCALE = float(np.finfo(np.float32).tiny)  # smaller ones have fewer digits, or none


@dataclass(frozen=True, slots=True)
class Int8View:
    """The copy as it was at one moment.

    Attributes:
        codes: `[count, dimension] int8`.
        scales: `[count] float32`.
        lost: `[count] float32`, no vector is farther than this from what the copy has of it.
        memory: where the codes are taken from.
    """

    codes: np.ndarray
    scales: np.ndarray
    lost: np.ndarray
    memory: RowMemory

    def products(self, queries: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
        """Returns `[n, m] float32`: of `queries: [n, dimension] float32` with what the copy has of the rows."""
        count, dimension = row_count(rows), self.codes.shape[1]
        products = np.empty((len(queries), count), np.float32)
        step = max(1, _PART_BYTES // (4 * dimension))
        if len(queries) > FEW_QUERIES:
            step = min(step, max(16, PART_PRODUCTS // (len(queries) * dimension)))
        wide = np.empty((min(step, count), dimension), np.float32)
        for part, place in parts(rows, step):
            piece = wide[: place.stop - place.start]
            piece[:] = self.memory.look_at(self.codes, part)
            multiply(queries, piece, products[:, place])
        products *= self.scales[rows]
        return products


class Int8Copy:
    """Keeps the copy. One thread writes at a time; rows that a view has don't change."""

    def __init__(self, dimension: int, capacity: int, *, folder: Path | None = None) -> None:
        """Makes room.

        Args:
            dimension: of the vectors.
            capacity: rows that there is room for at first.
            folder: where the copy lies in a file; None: it is in memory.
        """
        self._memory = RowMemory(dimension, capacity, folder=folder, dtype=np.int8)
        self._scales = np.empty(capacity, np.float32)
        self._lost = np.empty(capacity, np.float32)

    def write(self, first: int, vectors: np.ndarray) -> None:
        """Puts what is left of `vectors: [n, dimension] float32` at row `first`."""
        step = max(1, _WRITE_COMPONENTS // vectors.shape[1])
        for start in range(0, len(vectors), step):
            part = vectors[start : start + step]
            place = slice(first + start, first + start + len(part))
            codes, self._scales[place], self._lost[place] = quantised(part)
            self._memory.write(place.start, codes)

    def grow(self, capacity: int) -> None:
        """Makes room for more."""
        self._memory.grow(capacity)
        more = capacity - len(self._scales)
        self._scales = np.concatenate([self._scales, np.empty(more, np.float32)])
        self._lost = np.concatenate([self._lost, np.empty(more, np.float32)])

    def release(self) -> None:
        """Releases the memory of a copy in a file, until it is read again."""
        self._memory.release()

    def seen(self, count: int) -> Int8View:
        """Returns the first rows."""
        return Int8View(self._memory.rows[:count], self._scales[:count], self._lost[:count], self._memory)


def quantised(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns codes `[n, dimension] int8`, scales `[n] float32` and what was lost `[n] float32`, rounded up.

    Args:
        vectors: `[n, dimension] float32`, finite.
    """
    wide = vectors.astype(np.float64)
    scales = (np.abs(wide).max(axis=1) / _LARGEST).astype(np.float32)
    scales[scales < _LEAST_SCALE] = 0.0
    steps = scales.astype(np.float64)[:, None]
    codes = np.rint(np.divide(wide, steps, out=np.zeros_like(wide), where=steps > 0))
    # The scale was rounded, perhaps down.
    np.clip(codes, -_LARGEST, _LARGEST, out=codes)
    wide -= codes * steps
    lost = np.sqrt(np.vecdot(wide, wide)).astype(np.float32)
    return codes.astype(np.int8), scales, np.nextafter(lost, np.float32(np.inf))
