"""How a calibration is fitted and measured.

1. Pairs of pictures that are known to be the same or different are embedded; their cosine similarities are kept.
2. On some pairs a logistic curve is fitted (Platt scaling) and thresholds are chosen: the default one, and one for each
   stated false match rate that there are enough pairs for. Both kinds of pairs have the same weight, however many there
   are of each: a probability is at even odds, and does not depend on how many pictures were held out.
3. On other pairs the error rates at those thresholds, with their intervals, and the calibration error of the curve are
   measured. If pairs come in groups that differ (alphabets of characters, say), each group is measured by a fit on all
   others, and the fit that is kept is on all.
4. Intervals are Wilson's, which assumes independent pairs; if pairs are drawn from classes and share pictures, they are
   widened to those over resampled classes. (With 20 classes of 20 pictures that differ in spread, Wilson's interval
   alone held the false non-match rate in a fifth of 100 simulations, not in 95 %.)

Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999; expected calibration error as in Guo et al.,
"On Calibration of Modern Neural Networks", ICML 2017, eq. 3, with 15 bins of equal width; one group left out at a time
as in Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions", 1974.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from twinsight_core.calibration import Calibration, OperatingPoint, ScoredPairs, logistic
from twinsight_core.evaluation.error_rates import STATED_RATES, pairs_allowed, pairs_needed
from twinsight_core.evaluation.intervals import pair_interval
from twinsight_core.evaluation.weighting import even_class_weights

ECE_BINS = 15
_NEWTON_STEPS = 100
# Keeps the curve finite where the pairs separate perfectly: a weak normal prior on both coefficients.
_RIDGE = 1e-3


def fit_calibration(
    *, fit: ScoredPairs, measure: ScoredPairs, meaning: str, false_match_rate: float, at_least_even: bool = True
) -> Calibration:
    """Returns the calibration fitted on one set of pairs and measured on another.

    Args:
        fit: pairs for scale, offset and thresholds.
        measure: pairs for the rates and the calibration error; of other pictures than `fit`.
        meaning: what the probability is of, one sentence.
        false_match_rate: the threshold is the lowest at which at most this share of `fit`'s different pairs pass. It is
            also a target of the operating points, as far as there are pairs enough to fit on and to measure on.
        at_least_even: raise the threshold to where the probability is one half, where it is lower.

    Raises:
        ValueError: the fitted slope is not above 0: the cosine says nothing about the pairs. Or more of the different
            pairs than `false_match_rate` have a cosine of 1.
    """
    reading = _fitted(fit, false_match_rate, at_least_even)
    return _calibration(reading, [(reading, measure)], meaning, false_match_rate)


def cross_fit_calibration(
    groups: Sequence[ScoredPairs],
    *,
    unmeasured: Sequence[ScoredPairs] = (),
    meaning: str,
    false_match_rate: float,
    at_least_even: bool = True,
) -> Calibration:
    """Returns the calibration fitted on all groups of pairs; its rates are of each group by the fit on the others.

    Args:
        groups: pairs; no two groups share pictures.
        unmeasured: further groups, which are only fitted on: those that the model's weights were chosen by.
        meaning: as in `fit_calibration`.
        false_match_rate: as in `fit_calibration`.
        at_least_even: as in `fit_calibration`.

    Raises:
        ValueError: there are fewer than two groups, none to measure on, or as in `fit_calibration`.
    """
    folds = leave_one_out(groups, unmeasured=unmeasured)
    measured = [(_fitted(fit, false_match_rate, at_least_even), measure) for fit, measure in folds]
    reading = _fitted(_together([*groups, *unmeasured]), false_match_rate, at_least_even)
    return _calibration(reading, measured, meaning, false_match_rate)


def leave_one_out(
    groups: Sequence[ScoredPairs], *, unmeasured: Sequence[ScoredPairs] = ()
) -> list[tuple[ScoredPairs, ScoredPairs]]:
    """Returns for each group the pairs of all others, to fit on, and its own, to measure on.

    Args:
        groups: as in `cross_fit_calibration`.
        unmeasured: as in `cross_fit_calibration`.

    Raises:
        ValueError: there are fewer than two groups, or none to measure on.
    """
    if not groups or len(groups) + len(unmeasured) < 2:
        raise ValueError(
            f"`groups` ({len(groups)}) must be 2 or more, with `unmeasured` ({len(unmeasured)}): some to fit on, one "
            "to measure on."
        )
    return [
        (_together([*groups[:number], *groups[number + 1 :], *unmeasured]), group)
        for number, group in enumerate(groups)
    ]


def measured_loss(folds: Sequence[tuple[ScoredPairs, ScoredPairs]], before: Calibration | None = None) -> float:
    """Returns the negative log-likelihood of pairs at even odds, by curves that were not fitted on them.

    Args:
        folds: pairs to fit on, and pairs to measure on.
        before: a calibration whose curve is taken for all of them; None: the curve of each one's pairs to fit on.

    Raises:
        ValueError: there is no fold.
    """
    if not folds:
        raise ValueError("`folds` must have at least one.")
    losses = []
    for fit, measure in folds:
        scale, offset = fit_logistic(fit) if before is None else (before.scale, before.offset)
        logit = scale * measure.cosine.astype(np.float64) + offset
        losses.append(np.logaddexp(0.0, np.where(measure.same, -logit, logit)))
    weights = even_class_weights(np.concatenate([measure.same for _, measure in folds]))
    return float(np.average(np.concatenate(losses), weights=weights))


@dataclass(frozen=True)
class _Reading:
    """What a fit says.

    Attributes:
        scale: slope of the logistic curve.
        offset: its offset.
        threshold: the default one.
        thresholds: those of the targets that there are pairs enough for, by target.
        pairs: fitted on.
    """

    scale: float
    offset: float
    threshold: float
    thresholds: dict[float, float]
    pairs: int

    def probability(self, pairs: ScoredPairs) -> np.ndarray:
        """Returns the probability of each pair, [count] float64."""
        return logistic(self.scale * pairs.cosine.astype(np.float64) + self.offset)


def _fitted(pairs: ScoredPairs, false_match_rate: float, at_least_even: bool) -> _Reading:
    scale, offset = fit_logistic(pairs)
    if scale <= 0:
        raise ValueError(f"the fitted `scale` (={scale:.3g}) must be above 0: same pairs are no closer than others.")
    different = np.sort(pairs.cosine[~pairs.same].astype(np.float64))[::-1]
    threshold = _threshold_at(different, false_match_rate)
    if threshold is None:
        raise ValueError(
            f"of the different pairs more than {false_match_rate:g} have a cosine of 1: are copies among them?"
        )
    targets = sorted({*STATED_RATES, false_match_rate}, reverse=True)
    stated = [target for target in targets if target > 0 and len(different) >= pairs_needed(target)]
    thresholds = {target: _threshold_at(different, target) for target in stated}
    return _Reading(
        scale=scale,
        offset=offset,
        threshold=min(max(threshold, -offset / scale), 1.0) if at_least_even else threshold,
        thresholds={target: one for target, one in thresholds.items() if one is not None},
        pairs=len(pairs.same),
    )


def _calibration(
    reading: _Reading, measured: Sequence[tuple[_Reading, ScoredPairs]], meaning: str, false_match_rate: float
) -> Calibration:
    """Returns a fit with the figures of fits on pairs that each was not made of."""
    default = _rates(false_match_rate, reading.threshold, [(one.threshold, pairs) for one, pairs in measured])
    probability = np.concatenate([one.probability(pairs) for one, pairs in measured])
    same = np.concatenate([pairs.same for _, pairs in measured])
    different = int(np.count_nonzero(~same))
    error = expected_calibration_error(probability, same, weights=even_class_weights(same))
    return Calibration(
        meaning=meaning,
        scale=reading.scale,
        offset=reading.offset,
        threshold=default.threshold,
        false_match_rate=default.false_match_rate,
        false_non_match_rate=default.false_non_match_rate,
        expected_calibration_error=error,
        pairs_fitted=reading.pairs,
        pairs_measured=len(same),
        false_match_rate_low=default.false_match_rate_low,
        false_match_rate_high=default.false_match_rate_high,
        false_non_match_rate_low=default.false_non_match_rate_low,
        false_non_match_rate_high=default.false_non_match_rate_high,
        operating_points=tuple(
            _rates(target, threshold, [(one.thresholds[target], pairs) for one, pairs in measured])
            for target, threshold in reading.thresholds.items()
            if different >= pairs_needed(target) and all(target in one.thresholds for one, _ in measured)
        ),
    )


def _together(groups: Sequence[ScoredPairs]) -> ScoredPairs:
    return ScoredPairs(
        cosine=np.concatenate([one.cosine for one in groups]), same=np.concatenate([one.same for one in groups])
    )


def fit_logistic(pairs: ScoredPairs) -> tuple[float, float]:
    """Returns scale and offset of the logistic curve with the highest likelihood at even odds, by Newton's method.

    Targets are smoothed as Platt advises, (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so that the curve stays finite. Same
    and different pairs weigh alike together: where a share s of the pairs is the same, the curve that holds for them
    has the offset found here plus log(s / (1 - s)).

    Source: King and Zeng, "Logistic Regression in Rare Events Data", 2001 (weighting).
    """
    count = even_class_weights(pairs.same)
    cosine = pairs.cosine.astype(np.float64)
    middle = float(np.average(cosine, weights=count))
    spread = float(np.sqrt(np.average((cosine - middle) ** 2, weights=count)))
    if cosine.min() == cosine.max():
        return 0.0, 0.0
    # The prior's scale: a model whose cosines all lie between 0.99 and 1 may tell pairs apart as well as any.
    x = np.stack([(cosine - middle) / spread, np.ones(len(pairs.same))], axis=1)
    positive = int(pairs.same.sum())
    negative = len(pairs.same) - positive
    target = np.where(pairs.same, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(weights: np.ndarray) -> float:
        logit = x @ weights
        return float(count @ (np.logaddexp(0.0, logit) - target * logit) + 0.5 * _RIDGE * weights @ weights)

    weights = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        p = logistic(x @ weights)
        gradient = x.T @ (count * (p - target)) + _RIDGE * weights
        curvature = (x * (count * p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-10 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-9 * (1.0 + np.abs(weights).max()):
            break
    scale = float(weights[0]) / spread
    return scale, float(weights[1]) - scale * middle


def expected_calibration_error(
    probability: np.ndarray, same: np.ndarray, *, bins: int = ECE_BINS, weights: np.ndarray | None = None
) -> float:
    """Returns the mean gap between probability and frequency over bins of equal width, weighted by their pairs.

    Args:
        probability: [count] float, 0..1.
        same: [count] bool.
        bins: number of bins.
        weights: [count] float, how many pairs each stands for; None: one each.
    """
    count = np.ones(len(same)) if weights is None else weights
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gap = np.abs(
        np.bincount(place, weights=count * probability, minlength=bins)
        - np.bincount(place, weights=count * same, minlength=bins)
    )
    return float(gap.sum() / count.sum())


def calibration_error(calibration: Calibration, pairs: ScoredPairs) -> float:
    """Returns the expected calibration error of a calibration on pairs, 0..1, at even odds as it is fitted."""
    probability = calibration.probability(pairs.cosine)
    return expected_calibration_error(probability, pairs.same, weights=even_class_weights(pairs.same))


def default_rates(calibration: Calibration, pairs: ScoredPairs) -> dict[str, float]:
    """Returns the rates of a calibration's default threshold on pairs, and their intervals, named as in OperatingPoint.

    Raises:
        ZeroDivisionError: there are no pairs of one kind.
    """
    rates = asdict(_rates(0.0, calibration.threshold, [(calibration.threshold, pairs)]))
    return {name: value for name, value in rates.items() if name not in ("target_fmr", "threshold")}


def _threshold_at(different: np.ndarray, rate: float) -> float | None:
    """Returns the lowest threshold, -1..1, at which at most a share `rate` of different pairs pass; None if more do.

    Args:
        different: [count] float64, cosines of different pairs, falling.
        rate: 0..1.
    """
    allowed = pairs_allowed(rate, len(different))
    # Just above the highest cosine that must fail.
    threshold = float(np.nextafter(different[allowed], np.inf)) if allowed < len(different) else -1.0
    return max(threshold, -1.0) if threshold <= 1.0 else None


def _rates(target_fmr: float, threshold: float, measured: Sequence[tuple[float, ScoredPairs]]) -> OperatingPoint:
    """Returns a point whose rates are of pairs, each at the threshold beside them."""
    passes = np.concatenate([pairs.cosine.astype(np.float64) >= own for own, pairs in measured])
    is_same = np.concatenate([pairs.same for _, pairs in measured])
    same, different = int(is_same.sum()), int((~is_same).sum())
    matched, missed = int(passes[~is_same].sum()), int((~passes[is_same]).sum())
    classes = [pairs.classes for _, pairs in measured]
    known = [one for one in classes if one is not None]
    of_pairs = np.concatenate(known) if len(known) == len(classes) else None
    of_different, of_same = (None if of_pairs is None else of_pairs[kind] for kind in (~is_same, is_same))
    match_low, match_high = pair_interval(passes[~is_same], of_different)
    miss_low, miss_high = pair_interval(~passes[is_same], of_same)
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
