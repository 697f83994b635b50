"""How alike two embedded pictures are: the numbers, the probability and the decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twinsight_core.calibration import Calibration


@dataclass(frozen=True)
class Comparison:
    """How alike two pictures are.

    Attributes:
        cosine_similarity: of the vectors, -1..1.
        euclidean_distance: between the vectors at length 1, 0..2.
        probability: that both show the same in the sense of the calibration, 0..1; None without a calibration.
        same: whether the pair passes the operating point; None without a calibration.
    """

    cosine_similarity: float
    euclidean_distance: float
    probability: float | None
    same: bool | None


def compare(
    left: Sequence[np.ndarray], right: Sequence[np.ndarray], calibration: Calibration | None
) -> list[Comparison]:
    """Compares vectors pair by pair, in float64: float32 would make equal vectors differ by up to 3e-4 in distance.

    Args:
        left: n of [dimension] float32, finite, not all zero, of any length.
        right: as many.
        calibration: the model's; None if it has none.

    Returns:
        n comparisons.
    """
    if not len(left):
        return []
    one, other = _at_length_1(left), _at_length_1(right)
    cosines = np.clip(np.einsum("nd,nd->n", one, other), -1.0, 1.0)
    distances = np.linalg.norm(one - other, axis=1)
    if calibration is None:
        return [Comparison(float(c), float(d), None, None) for c, d in zip(cosines, distances, strict=True)]
    judged = zip(cosines, distances, calibration.probability(cosines), calibration.same(cosines), strict=True)
    return [Comparison(float(c), float(d), float(p), bool(s)) for c, d, p, s in judged]


def _at_length_1(vectors: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.stack(vectors).astype(np.float64)
    unit: np.ndarray = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
    return unit
