"""Rows whose values are known to lie between two bounds, and which of them may be among the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Bounded:
    """Rows, and between what their coarse values would lie if nothing had been lost by a smaller form.

    Attributes:
        rows: `[m] int64`.
        lowest: `[m] float32`; minus infinity where a row must not be found.
        highest: `[m] float32`.
    """

    rows: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, coarse: np.ndarray, doubt: np.ndarray | None) -> Bounded:
        """Returns rows with coarse values `[m] float32` that may be off by a doubt `[m] float32`."""
        return cls(rows, coarse, coarse) if doubt is None else cls(rows, coarse - doubt, coarse + doubt)

    @classmethod
    def joined(cls, some: Sequence[Bounded]) -> Bounded:
        """Returns all rows of some."""
        if len(some) == 1:
            return some[0]
        return cls(
            np.concatenate([one.rows for one in some]),
            np.concatenate([one.lowest for one in some]),
            np.concatenate([one.highest for one in some]),
        )

    def contenders(self, k: int, slack: float) -> Bounded:
        """Returns the rows that can reach the k-th best less `slack`; none that must not be found."""
        least = float(np.finfo(np.float32).min)
        if len(self.rows) > k:
            kth = len(self.rows) - k
            least = max(least, float(np.partition(self.lowest, kth)[kth]) - slack)
        places = np.flatnonzero(self.highest >= least)
        return Bounded(self.rows[places], self.lowest[places], self.highest[places])
