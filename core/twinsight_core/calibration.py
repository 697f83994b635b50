"""From a cosine similarity to a probability and a decision.

1. Pairs of pictures that are known to be the same or different are embedded; their cosine similarities are kept.
2. On one part of the pairs a logistic curve is fitted (Platt scaling) and an operating point is chosen.
3. On the other part the error rates at that point and the calibration error of the curve are measured.

Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999; expected calibration error as in Guo et al.,
"On Calibration of Modern Neural Networks", ICML 2017, eq. 3, with 15 bins of equal width.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from twinsight_core.json_fields import JsonFields

ECE_BINS = 15
MAX_PAIRS = 2**53
_NEWTON_STEPS = 100
# Keeps the curve finite where the pairs separate perfectly: a weak normal prior on both coefficients.
_RIDGE = 1e-3


@dataclass(frozen=True)
class Calibration:
    """How one model's cosine similarities are read.

    The rates are those of held-out pairs, half of them the same and half different, or as `meaning` says: in a
    collection where the same picture is rare the probability is too high by as much as the odds differ.

    Attributes:
        meaning: what the probability is a probability of, one sentence.
        scale: slope of the logistic curve over the cosine, above 0.
        offset: its offset; probability = 1 / (1 + exp(-(scale x cosine + offset))).
        threshold: cosine at and above which a pair is called the same, -1..1.
        false_match_rate: share of different pairs that pass the threshold, 0..1.
        false_non_match_rate: share of same pairs that fail it, 0..1.
        expected_calibration_error: mean gap between the probability and the share of same pairs, 0..1.
        pairs_fitted: pairs that scale, offset and threshold were fitted on.
        pairs_measured: pairs that the rates were measured on.
    """

    meaning: str
    scale: float
    offset: float
    threshold: float
    false_match_rate: float
    false_non_match_rate: float
    expected_calibration_error: float
    pairs_fitted: int
    pairs_measured: int

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: a value breaks its rule.
        """
        for name in ("scale", "offset"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be finite.")
        if not self.meaning:
            raise ValueError("`meaning` must say what the probability is of.")
        if self.scale <= 0:
            raise ValueError(f"`scale` (={self.scale}) must be above 0: a higher cosine is a likelier match.")
        if not -1.0 <= self.threshold <= 1.0:
            raise ValueError(f"`threshold` (={self.threshold}) must lie in -1..1.")
        for name in ("false_match_rate", "false_non_match_rate", "expected_calibration_error"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must lie in 0..1.")

    def probability(self, cosine: np.ndarray) -> np.ndarray:
        """Returns the probability that each pair is the same in the sense of `meaning`.

        Args:
            cosine: [...] float, -1..1.

        Returns:
            [...] float64, 0..1.
        """
        return _logistic(self.scale * np.asarray(cosine, np.float64) + self.offset)

    def same(self, cosine: np.ndarray) -> np.ndarray:
        """Returns whether each pair passes the operating point.

        Args:
            cosine: [...] float, -1..1.

        Returns:
            [...] bool.
        """
        return np.asarray(cosine, np.float64) >= self.threshold

    def to_json(self) -> dict[str, str | float | int]:
        """Returns plain values, by the attributes' names."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: JsonFields) -> Calibration:
        """Returns the calibration of `to_json`'s values.

        Raises:
            ValueError: a value is of the wrong type or breaks its rule.
        """
        return cls(
            meaning=fields.text("meaning"),
            scale=fields.number("scale"),
            offset=fields.number("offset"),
            threshold=fields.number("threshold"),
            false_match_rate=fields.number("false_match_rate"),
            false_non_match_rate=fields.number("false_non_match_rate"),
            expected_calibration_error=fields.number("expected_calibration_error"),
            pairs_fitted=fields.integer("pairs_fitted", least=0, most=MAX_PAIRS),
            pairs_measured=fields.integer("pairs_measured", least=0, most=MAX_PAIRS),
        )


@dataclass(frozen=True)
class ScoredPairs:
    """Cosine similarities of pairs whose truth is known.

    Attributes:
        cosine: [count] float, -1..1.
        same: [count] bool, whether the pair is the same.
    """

    cosine: np.ndarray
    same: np.ndarray

    def __post_init__(self) -> None:
        """Checks the shapes and that both kinds are there.

        Raises:
            ValueError: shapes differ, a cosine is not finite, or one kind is missing.
        """
        if self.cosine.shape != self.same.shape or self.cosine.ndim != 1:
            raise ValueError(f"`cosine` {self.cosine.shape} and `same` {self.same.shape} must be [count].")
        if not np.isfinite(self.cosine).all():
            raise ValueError("`cosine` must be finite.")
        if self.same.all() or not self.same.any():
            raise ValueError("`same` must hold pairs of both kinds.")


def fit_calibration(*, fit: ScoredPairs, measure: ScoredPairs, meaning: str, false_match_rate: float) -> Calibration:
    """Returns the calibration fitted on one set of pairs and measured on another.

    Args:
        fit: pairs for scale, offset and threshold.
        measure: pairs for the rates and the calibration error; of other pictures than `fit`.
        meaning: what the probability is a probability of, one sentence.
        false_match_rate: the threshold is the lowest at which at most this share of `fit`'s different pairs pass, and
            at which the probability is at least one half.

    Raises:
        ValueError: the fitted slope is not above 0: the cosine says nothing about the pairs.
    """
    scale, offset = fit_logistic(fit)
    if scale <= 0:
        raise ValueError(f"the fitted `scale` (={scale:.3g}) must be above 0: same pairs are no closer than others.")
    different = np.sort(fit.cosine[~fit.same].astype(np.float64))[::-1]
    allowed = int(false_match_rate * len(different))
    # Just above the highest cosine that must fail.
    by_rate = float(np.nextafter(different[allowed], np.inf)) if allowed < len(different) else -1.0
    threshold = min(max(by_rate, -offset / scale, -1.0), 1.0)
    passes = measure.cosine.astype(np.float64) >= threshold
    probability = _logistic(scale * measure.cosine.astype(np.float64) + offset)
    return Calibration(
        meaning=meaning,
        scale=scale,
        offset=offset,
        threshold=threshold,
        false_match_rate=float(passes[~measure.same].mean()),
        false_non_match_rate=float((~passes[measure.same]).mean()),
        expected_calibration_error=expected_calibration_error(probability, measure.same),
        pairs_fitted=len(fit.same),
        pairs_measured=len(measure.same),
    )


def fit_logistic(pairs: ScoredPairs) -> tuple[float, float]:
    """Returns scale and offset of the logistic curve with the highest likelihood, by Newton's method.

    Targets are smoothed as Platt advises, (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so that the curve stays finite.
    """
    x = np.stack([pairs.cosine.astype(np.float64), np.ones(len(pairs.same))], axis=1)
    positive = int(pairs.same.sum())
    negative = len(pairs.same) - positive
    target = np.where(pairs.same, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(weights: np.ndarray) -> float:
        logit = x @ weights
        return float(np.sum(np.logaddexp(0.0, logit) - target * logit) + 0.5 * _RIDGE * weights @ weights)

    weights = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        p = _logistic(x @ weights)
        gradient = x.T @ (p - target) + _RIDGE * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-10 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-9 * (1.0 + np.abs(weights).max()):
            break
    return float(weights[0]), float(weights[1])


def expected_calibration_error(probability: np.ndarray, same: np.ndarray, *, bins: int = ECE_BINS) -> float:
    """Returns the mean gap between probability and frequency over bins of equal width, weighted by their pairs.

    Args:
        probability: [count] float, 0..1.
        same: [count] bool.
        bins: number of bins.
    """
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gap = np.abs(
        np.bincount(place, weights=probability, minlength=bins)
        - np.bincount(place, weights=same.astype(np.float64), minlength=bins)
    )
    return float(gap.sum() / len(same))


def _logistic(x: np.ndarray) -> np.ndarray:
    # exp of a number at or below 0 alone never overflows.
    small = np.exp(-np.abs(x))
    logistic: np.ndarray = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return logistic
