"""Compares two embedded pictures: similarity, probability and decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twinsight_core.calibration import Calibration
from twinsight_core.errors import FailedPrecondition


@dataclass(frozen=True)
class Decision:
    """Where a calibration's decision is made.

    Attributes:
        threshold: cosine at and above which a pair is called the same, -1..1.
        target_fmr: of the operating point that was chosen; None: the calibration's default one.
        false_match_rate: share of held-out different pairs that pass the threshold, 0..1.
        false_non_match_rate: share of held-out same pairs that fail it, 0..1.
    """

    threshold: float
    target_fmr: float | None
    false_match_rate: float
    false_non_match_rate: float


@dataclass(frozen=True)
class Comparison:
    """How alike two pictures are.

    Attributes:
        cosine_similarity: of the vectors, -1..1.
        euclidean_distance: between the vectors at length 1, 0..2.
        probability: that both show the same in the sense of the calibration, 0..1; None without a calibration.
        same: whether the pair passes the decision's threshold; None without a calibration.
        decision: where `same` was decided; None without a calibration.
    """

    cosine_similarity: float
    euclidean_distance: float
    probability: float | None = None
    same: bool | None = None
    decision: Decision | None = None


def decision_for(calibration: Calibration | None, target_fmr: float | None = None) -> Decision | None:
    """Returns where pairs are decided; None if no rate is given and there is no calibration.

    Args:
        calibration: the model's; None if it has none.
        target_fmr: false match rate to aim at; None takes the default point.

    Raises:
        InvalidInput: the rate is out of range, or no operating point is that strict.
        FailedPrecondition: a rate is given, and there is no calibration.
    """
    if calibration is None:
        if target_fmr is None:
            return None
        raise FailedPrecondition(
            f"`target_fmr` (={target_fmr:g}) can't be met: the model has no calibration.",
            reason="MODEL_NOT_CALIBRATED",
            field="target_fmr",
        )
    if target_fmr is None:
        return _default_decision(calibration)
    point = calibration.operating_point(target_fmr)
    return Decision(point.threshold, point.target_fmr, point.false_match_rate, point.false_non_match_rate)


def compare(
    left: Sequence[np.ndarray],
    right: Sequence[np.ndarray],
    calibration: Calibration | None,
    decision: Decision | None = None,
) -> list[Comparison]:
    """Compares vectors pair by pair, in float64: float32 would make equal vectors differ by up to 3e-4 in distance.

    Args:
        left: n of [dimension] float32, finite, not all zero, of any length.
        right: as many.
        calibration: the model's; None if it has none.
        decision: where pairs are decided, from `decision_for`; None: at the calibration's default point.

    Returns:
        n comparisons.
    """
    if not len(left):
        return []
    one, other = _at_length_1(left), _at_length_1(right)
    distances = np.linalg.norm(one - other, axis=1)
    cosines = np.clip(np.einsum("nd,nd->n", one, other), -1.0, 1.0)
    cosines[distances == 0] = 1.0  # rounding leaves a third of equal vectors just below
    if calibration is None:
        return [Comparison(float(c), float(d)) for c, d in zip(cosines, distances, strict=True)]
    at = decision or _default_decision(calibration)
    judged = zip(cosines, distances, calibration.probability(cosines), strict=True)
    return [Comparison(float(c), float(d), float(p), bool(c >= at.threshold), at) for c, d, p in judged]


def _default_decision(calibration: Calibration) -> Decision:
    return Decision(calibration.threshold, None, calibration.false_match_rate, calibration.false_non_match_rate)


def _at_length_1(vectors: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.stack(vectors).astype(np.float64)
    unit: np.ndarray = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
    return unit
