"""Inner products of queries with many rows, in parts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

FEW_QUERIES = 3
PART_PRODUCTS = 1 << 20
"""Multiplications that OpenBLAS does on the thread that asks, in one product; more it spreads over all its threads."""


def parts(rows: slice | np.ndarray, step: int) -> Iterator[tuple[slice | np.ndarray, slice]]:
    """Yields rows, a slice with a start and a stop or `[m] int64`, in steps, each with its place among them."""
    count = row_count(rows)
    for first in range(0, count, step):
        place = slice(first, min(first + step, count))
        if isinstance(rows, slice):
            yield slice(rows.start + place.start, rows.start + place.stop), place
        else:
            yield rows[place], place


def row_count(rows: slice | np.ndarray) -> int:
    """Returns how many rows are meant."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def multiply(queries: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Writes the inner products of `queries: [n, d] float32` with `rows: [m, d] float32` to `out: [n, m] float32`."""
    if len(queries) <= FEW_QUERIES:
        # Not `rows @ query`: BLAS spreads that over all its threads, and on busy cores they wait for one another
        # (20,000 x 256 on two busy cores: 8 ms against 1.3 ms).
        for query, line in zip(queries, out, strict=True):
            np.vecdot(rows, query, out=line)
    else:
        np.matmul(queries, rows.T, out=out)
