"""From a cosine similarity to a probability and a decision.

1. Pairs of pictures that are known to be the same or different are embedded; their cosine similarities are kept.
2. On one part of the pairs a logistic curve is fitted (Platt scaling) and operating points are chosen: the default one,
   and one for each stated false match rate that there are pairs enough for.
3. On the other part the error rates at those points, with their intervals, and the calibration error of the curve are
   measured.

Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999; expected calibration error as in Guo et al.,
"On Calibration of Modern Neural Networks", ICML 2017, eq. 3, with 15 bins of equal width.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np

from twinsight_core.errors import InvalidInput
from twinsight_core.evaluation.intervals import wilson_interval
from twinsight_core.json_fields import OPTIONAL, JsonFields

ECE_BINS = 15
TARGET_FMRS = (0.1, 0.01, 0.001)
# With none of 3 / rate different pairs passing, the rate is below the stated one with 95 % confidence (rule of three).
PAIRS_FOR_RATE = 3.0
MAX_PAIRS = 2**53
_NEWTON_STEPS = 100
# Keeps the curve finite where the pairs separate perfectly: a weak normal prior on both coefficients.
_RIDGE = 1e-3


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold for a stated false match rate, and what held-out pairs say about it.

    Attributes:
        target_fmr: the false match rate that the threshold was chosen for, 0..1.
        threshold: cosine at and above which a pair is called the same, -1..1.
        false_match_rate: share of different pairs that pass the threshold, 0..1.
        false_match_rate_low: lower end of its 95 % interval.
        false_match_rate_high: upper end of its 95 % interval.
        false_non_match_rate: share of same pairs that fail it, 0..1.
        false_non_match_rate_low: lower end of its 95 % interval.
        false_non_match_rate_high: upper end of its 95 % interval.
    """

    target_fmr: float
    threshold: float
    false_match_rate: float
    false_match_rate_low: float
    false_match_rate_high: float
    false_non_match_rate: float
    false_non_match_rate_low: float
    false_non_match_rate_high: float

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: a value breaks its rule.
        """
        _check_rate("target_fmr", self.target_fmr)
        _check_threshold(self.threshold)
        for name in ("false_match_rate", "false_non_match_rate"):
            rate, low, high = (getattr(self, f"{name}{end}") for end in ("", "_low", "_high"))
            _check_rate(name, rate)
            _check_interval(name, rate, low, high)

    @classmethod
    def from_json(cls, fields: JsonFields) -> OperatingPoint:
        """Returns the point of plain values, by the attributes' names.

        Raises:
            ValueError: a value is of the wrong type or breaks its rule.
        """
        return cls(**{name: fields.number(name) for name in cls.__dataclass_fields__})


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
        false_match_rate_low: lower end of the rate's 95 % interval; None, as the following three, in cards without.
        false_match_rate_high: its upper end.
        false_non_match_rate_low: lower end of that rate's 95 % interval.
        false_non_match_rate_high: its upper end.
        operating_points: further thresholds, by falling `target_fmr`; empty in cards without.
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
    false_match_rate_low: float | None = field(default=None, metadata=OPTIONAL)
    false_match_rate_high: float | None = field(default=None, metadata=OPTIONAL)
    false_non_match_rate_low: float | None = field(default=None, metadata=OPTIONAL)
    false_non_match_rate_high: float | None = field(default=None, metadata=OPTIONAL)
    operating_points: tuple[OperatingPoint, ...] = field(default=(), metadata=OPTIONAL)

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
        _check_threshold(self.threshold)
        for name in ("false_match_rate", "false_non_match_rate", "expected_calibration_error"):
            _check_rate(name, getattr(self, name))
        for name in ("false_match_rate", "false_non_match_rate"):
            low, high = getattr(self, f"{name}_low"), getattr(self, f"{name}_high")
            if (low is None) != (high is None):
                raise ValueError(f"`{name}_low` and `{name}_high` must be given both or neither.")
            if low is not None:
                _check_interval(name, getattr(self, name), low, high)
        targets = [point.target_fmr for point in self.operating_points]
        thresholds = [point.threshold for point in self.operating_points]
        if targets != sorted(set(targets), reverse=True) or thresholds != sorted(thresholds):
            raise ValueError("`operating_points` must have falling `target_fmr` and thresholds that do not fall.")

    def probability(self, cosine: np.ndarray) -> np.ndarray:
        """Returns the probability that each pair is the same in the sense of `meaning`.

        Args:
            cosine: [...] float, -1..1.

        Returns:
            [...] float64, 0..1.
        """
        return _logistic(self.scale * np.asarray(cosine, np.float64) + self.offset)

    def same(self, cosine: np.ndarray, target_fmr: float | None = None) -> np.ndarray:
        """Returns whether each pair passes the operating point.

        Args:
            cosine: [...] float, -1..1.
            target_fmr: false match rate that the point must keep to; None takes the default point, `threshold`.

        Returns:
            [...] bool.

        Raises:
            InvalidInput: no operating point is that strict.
        """
        threshold = self.threshold if target_fmr is None else self.operating_point(target_fmr).threshold
        return np.asarray(cosine, np.float64) >= threshold

    def operating_point(self, target_fmr: float) -> OperatingPoint:
        """Returns the point that keeps to a false match rate and loses the fewest same pairs.

        That is the one with the highest `target_fmr` that is at most the asked one.

        Args:
            target_fmr: above 0, at most 1.

        Raises:
            InvalidInput: the rate breaks its rule or no operating point is that strict; the message names those there
                are.
        """
        if not 0.0 < target_fmr <= 1.0:
            raise InvalidInput(
                f"`target_fmr` (={target_fmr}) must be above 0 and at most 1.",
                reason="TARGET_FMR_INVALID",
                field="target_fmr",
            )
        for point in self.operating_points:
            if point.target_fmr <= target_fmr:
                return point
        known = ", ".join(f"{point.target_fmr:g}" for point in self.operating_points)
        raise InvalidInput(
            f"`target_fmr` (={target_fmr:g}) must be at least that of one of the model's operating points: "
            f"{known or 'it has none'}.",
            reason="TARGET_FMR_UNKNOWN",
            field="target_fmr",
        )

    def to_json(self) -> dict[str, object]:
        """Returns plain values, by the attributes' names; without those of `OPTIONAL` fields that say nothing.

        A model's digest covers them: a card that was written before there were such fields keeps its digest.
        """
        values: dict[str, object] = dataclasses.asdict(self)
        values["operating_points"] = [dataclasses.asdict(point) for point in self.operating_points]
        silent = [one.name for one in dataclasses.fields(self) if one.metadata and values[one.name] in (None, [])]
        return {name: value for name, value in values.items() if name not in silent}

    @classmethod
    def from_json(cls, fields: JsonFields) -> Calibration:
        """Returns the calibration of `to_json`'s values.

        Raises:
            ValueError: a value is of the wrong type or breaks its rule.
        """
        points: tuple[JsonFields, ...] = ()
        if "operating_points" in fields:
            points = fields.objects("operating_points", OperatingPoint.__dataclass_fields__)
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
            false_match_rate_low=_number_or_none(fields, "false_match_rate_low"),
            false_match_rate_high=_number_or_none(fields, "false_match_rate_high"),
            false_non_match_rate_low=_number_or_none(fields, "false_non_match_rate_low"),
            false_non_match_rate_high=_number_or_none(fields, "false_non_match_rate_high"),
            operating_points=tuple(OperatingPoint.from_json(point) for point in points),
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
            at which the probability is at least one half. It is one of the targets of the operating points, too, whose
            thresholds heed the rate alone.

    Raises:
        ValueError: the fitted slope is not above 0: the cosine says nothing about the pairs.
    """
    scale, offset = fit_logistic(fit)
    if scale <= 0:
        raise ValueError(f"the fitted `scale` (={scale:.3g}) must be above 0: same pairs are no closer than others.")
    different = np.sort(fit.cosine[~fit.same].astype(np.float64))[::-1]
    threshold = min(max(_threshold_at(different, false_match_rate), -offset / scale), 1.0)
    default = _measured(threshold, measure, target_fmr=false_match_rate)
    targets = sorted({*TARGET_FMRS, false_match_rate}, reverse=True)
    probability = _logistic(scale * measure.cosine.astype(np.float64) + offset)
    return Calibration(
        meaning=meaning,
        scale=scale,
        offset=offset,
        threshold=default.threshold,
        false_match_rate=default.false_match_rate,
        false_non_match_rate=default.false_non_match_rate,
        expected_calibration_error=expected_calibration_error(probability, measure.same),
        pairs_fitted=len(fit.same),
        pairs_measured=len(measure.same),
        false_match_rate_low=default.false_match_rate_low,
        false_match_rate_high=default.false_match_rate_high,
        false_non_match_rate_low=default.false_non_match_rate_low,
        false_non_match_rate_high=default.false_non_match_rate_high,
        operating_points=tuple(
            _measured(_threshold_at(different, target), measure, target_fmr=target)
            for target in targets
            # A little less: 3 / 0.001 is above 3,000.
            if target > 0 and len(different) >= PAIRS_FOR_RATE / target - 1e-6
        ),
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


def _threshold_at(different: np.ndarray, rate: float) -> float:
    """Returns the lowest threshold at which at most a share `rate` of different pairs pass, -1..1.

    Args:
        different: [count] float64, cosines of different pairs, falling.
        rate: 0..1.
    """
    allowed = int(rate * len(different))
    # Just above the highest cosine that must fail.
    threshold = float(np.nextafter(different[allowed], np.inf)) if allowed < len(different) else -1.0
    return min(max(threshold, -1.0), 1.0)


def _measured(threshold: float, pairs: ScoredPairs, *, target_fmr: float) -> OperatingPoint:
    passes = pairs.cosine.astype(np.float64) >= threshold
    same, different = int(pairs.same.sum()), int((~pairs.same).sum())
    matched, missed = int(passes[~pairs.same].sum()), int((~passes[pairs.same]).sum())
    match_low, match_high = wilson_interval(matched, different)
    miss_low, miss_high = wilson_interval(missed, same)
    return OperatingPoint(
        target_fmr=target_fmr,
        threshold=threshold,
        false_match_rate=matched / different,
        false_match_rate_low=match_low,
        false_match_rate_high=match_high,
        false_non_match_rate=missed / same,
        false_non_match_rate_low=miss_low,
        false_non_match_rate_high=miss_high,
    )


def _number_or_none(fields: JsonFields, name: str) -> float | None:
    return fields.number(name) if name in fields else None


def _check_threshold(threshold: float) -> None:
    if not -1.0 <= threshold <= 1.0:
        raise ValueError(f"`threshold` (={threshold}) must lie in -1..1.")


def _check_rate(name: str, rate: float) -> None:
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"`{name}` (={rate}) must lie in 0..1.")


def _check_interval(name: str, rate: float, low: float, high: float) -> None:
    if not 0.0 <= low <= rate <= high <= 1.0:
        raise ValueError(f"`{name}` (={rate}) must lie in {low}..{high} (`{name}_low`, `{name}_high`), within 0..1.")
