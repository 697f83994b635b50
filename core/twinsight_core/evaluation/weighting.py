"""How much examples count where their classes count alike."""

from __future__ import annotations

import numpy as np


def even_class_weights(labels: np.ndarray) -> np.ndarray:
    """Returns how much each example counts if all classes count alike, [count] float64; 1 on average.

    Args:
        labels: [count] integer, at least 0, or bool: the class of each; one example or more.
    """
    numbers = labels.astype(np.int64)
    counts = np.bincount(numbers)
    weights: np.ndarray = len(labels) / (np.count_nonzero(counts) * counts[numbers])
    return weights
