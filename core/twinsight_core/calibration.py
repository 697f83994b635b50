"""Maps a cosine similarity to a probability and a decision; `fitting` makes calibrations."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np

from twinsight_core.errors import InvalidInput
from twinsight_core.json_fields import OPTIONAL, JsonFields

MAX_PAIRS = 2**53
_ROUNDED = 1 + 1e-6
"""Relative tolerance for equal rates: a 32-bit number has seven digits."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold for a stated false match rate, and what held-out pairs say about it.

    The intervals are over pictures of other classes if the pairs' classes are known. Otherwise they assume independent
    pairs, which pairs that share pictures are not; see `fitting`.

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
    """The interpretation of one model's cosine similarities.

    The rates are those of held-out pairs. The probability is at even odds, as if half of the pairs were the same and
    half different, or as `meaning` says: in a collection where the same thing is rare it is too high by as much as the
    odds differ.

    Attributes:
        meaning: what the probability is a probability of, one sentence.
        scale: slope of the logistic curve over the cosine, above 0.
        offset: its offset; probability = 1 / (1 + exp(-(scale x cosine + offset))).
        threshold: cosine at and above which a pair is called the same, -1..1.
        false_match_rate: share of different pairs that pass the threshold, 0..1.
        false_non_match_rate: share of same pairs that fail it, 0..1.
        expected_calibration_error: mean gap between the probability and the share of same pairs at even odds, 0..1.
        pairs_fitted: pairs that scale, offset and threshold were fitted on.
        pairs_measured: pairs that the rates were measured on.
        false_match_rate_low: lower end of the rate's 95 % interval; None, as the following three, in cards without.
        false_match_rate_high: its upper end.
        false_non_match_rate_low: lower end of that rate's 95 % interval.
        false_non_match_rate_high: its upper end.
        operating_points: further thresholds, in descending order of `target_fmr`; empty in cards without.
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
        return logistic(self.scale * np.asarray(cosine, np.float64) + self.offset)

    def operating_point(self, target_fmr: float) -> OperatingPoint:
        """Returns the point that was chosen for at most this false match rate and loses the fewest same pairs.

        That is the one with the highest `target_fmr` that is at most the requested one, to six digits: a rate that was
        transmitted as a 32-bit number still means its point.

        Args:
            target_fmr: above 0, at most 1.

        Raises:
            InvalidInput: the rate breaks its rule or no operating point is that strict; the message names those that
                exist.
        """
        if not 0.0 < target_fmr <= 1.0:
            raise InvalidInput(
                f"`target_fmr` (={target_fmr}) must be above 0 and at most 1.",
                reason="TARGET_FMR_INVALID",
                field="target_fmr",
            )
        for point in self.operating_points:
            if point.target_fmr <= target_fmr * _ROUNDED:
                return point
        known = ", ".join(f"{point.target_fmr:g}" for point in self.operating_points)
        raise InvalidInput(
            f"`target_fmr` (={target_fmr}) must be at least that of one of the model's operating points: "
            f"{known or 'it has none'}.",
            reason="TARGET_FMR_UNKNOWN",
            field="target_fmr",
        )

    def to_json(self) -> dict[str, object]:
        """Returns plain values, by the attributes' names, without empty `OPTIONAL` fields.

        A model's digest covers them: a card from before these fields existed keeps its digest.
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
        classes: [count, 2] integer, the classes of each pair's pictures; None if unknown, which treats each pair as
            independent of the others.
    """

    cosine: np.ndarray
    same: np.ndarray
    classes: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Checks the shapes and that there are pairs of both kinds.

        Raises:
            ValueError: shapes differ, a cosine is not finite, or one kind is missing.
        """
        if self.classes is not None and self.classes.shape != (*self.same.shape, 2):
            raise ValueError(f"`classes` {self.classes.shape} must be {(*self.same.shape, 2)}, two a pair.")
        if self.cosine.shape != self.same.shape or self.cosine.ndim != 1:
            raise ValueError(f"`cosine` {self.cosine.shape} and `same` {self.same.shape} must be [count].")
        if not np.isfinite(self.cosine).all():
            raise ValueError("`cosine` must be finite.")
        if self.same.all() or not self.same.any():
            raise ValueError("`same` must have pairs of both kinds.")

    def part(self, kept: np.ndarray) -> ScoredPairs:
        """Returns some of the pairs.

        Args:
            kept: which, [count] bool, or their numbers, [m] integer.

        Raises:
            ValueError: they are of one kind.
        """
        return ScoredPairs(self.cosine[kept], self.same[kept], None if self.classes is None else self.classes[kept])


def logistic(x: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-x)), [...] float64, for any finite `x`."""
    # exp of a number at or below 0 alone never overflows.
    small = np.exp(-np.abs(x))
    share: np.ndarray = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return share


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
