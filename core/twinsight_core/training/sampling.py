"""Chooses a batch's pictures: some classes, some pictures of each, the same for a step in every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Share:
    """How a batch draws on one part of the training data.

    Attributes:
        rows: the pictures' rows in the training set, by class: one array a class.
        classes: classes a batch, at most as many as there are.
    """

    rows: tuple[np.ndarray, ...]
    classes: int

    def __post_init__(self) -> None:
        """Checks the count.

        Raises:
            ValueError: there are fewer classes than a batch needs.
        """
        if not 1 <= self.classes <= len(self.rows):
            raise ValueError(f"`classes` (={self.classes}) must lie in 1..{len(self.rows)}, the classes there are.")


def rows_by_class(labels: np.ndarray, *, first: int = 0) -> tuple[np.ndarray, ...]:
    """Returns the rows of each class, counted from `first`.

    Args:
        labels: [count] int32.
        first: row of the first picture in the training set.
    """
    return tuple(np.flatnonzero(labels == label) + first for label in np.unique(labels))


def sample_rows(shares: Sequence[Share], *, pictures: int, seed: int, step: int) -> np.ndarray:
    """Returns the rows of one batch: for each share some random classes, for each class some random pictures.

    Args:
        shares: parts of the training data.
        pictures: pictures of each class; drawn with repetition from a class that has fewer.
        seed: of the run.
        step: of the run; equal arguments give equal rows.

    Returns:
        [classes of all shares x pictures] int64.
    """
    rng = np.random.default_rng((seed, step))
    rows = [
        rng.choice(share.rows[label], pictures, replace=len(share.rows[label]) < pictures)
        for share in shares
        for label in rng.choice(len(share.rows), share.classes, replace=False)
    ]
    return np.concatenate(rows)
