"""Verification scores: are the two of a pair the same, over all thresholds and at stated error rates.

The score of a pair is its cosine; a pair is accepted at and above a threshold. FAR (false accept rate) is the share of
different pairs that are accepted, TAR (true accept rate) the share of same pairs that are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twinsight_core.calibration import ScoredPairs
from twinsight_core.evaluation.error_rates import STATED_RATES, pairs_allowed, pairs_needed
from twinsight_core.evaluation.intervals import binomial_interval, pair_interval


@dataclass(frozen=True)
class Roc:
    """The receiver operating characteristic: one point a distinct score, from accepting none to accepting all.

    Attributes:
        false_accept_rate: [points] float64, 0..1, never falling; the first is 0, the last 1.
        true_accept_rate: [points] float64, 0..1, never falling; the first is 0, the last 1.
        thresholds: [points] float64, falling; the first is infinite.
    """

    false_accept_rate: np.ndarray
    true_accept_rate: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class TarAtFar:
    """The true accept rate at a stated false accept rate.

    The interval is not only that of the same pairs at this threshold: other different pairs would give another. How
    many of these pass the one that is right varies as by the binomial distribution, or as over other classes where they
    are known; the interval reaches from the lower end at the threshold that few of them pass to the upper end at the
    one that many pass. (Of 3,000 normal scores of same pairs, two standard deviations above those of the fewest
    different pairs that are needed, 3 / far, it held the rate in 96 % of 300 simulations, with more different pairs in
    98 % or more; that of the same pairs alone, with the fewest, in 17 and 26 %.)

    Attributes:
        far: the false accept rate that was asked for, 0..1.
        threshold: the lowest score at which no more of the different pairs are accepted; None, as the following, where
            there are fewer different pairs than `different_pairs_needed`.
        true_accept_rate: share of same pairs that are accepted, 0..1.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        different_pairs: how many there are.
        different_pairs_needed: how many are needed to state this rate: 3 / far.
    """

    far: float
    threshold: float | None
    true_accept_rate: float | None
    low: float | None
    high: float | None
    different_pairs: int
    different_pairs_needed: int


@dataclass(frozen=True)
class KFoldAccuracy:
    """The accuracy at a threshold chosen on other pairs than those it is measured on.

    Attributes:
        mean: of the folds' accuracies, 0..1.
        standard_error: of the mean: the folds' standard deviation over the root of their number.
        accuracies: of each fold, by its number.
        thresholds: chosen on the other folds.
    """

    mean: float
    standard_error: float
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class VerificationScore:
    """How well scores separate same pairs from different ones.

    Attributes:
        auc: area under the ROC curve, 0..1: the share of (same, different) pairs of pairs in the right order.
        equal_error_rate: the rate at which false accepts and false rejects are equal, 0..1.
        accuracy: share of pairs that are classified correctly at `threshold`, 0..1; chosen on these very pairs.
        threshold: the one with the highest accuracy.
        tar_at_far: the true accept rates at stated false accept rates.
        k_fold: the accuracy over folds; None if no folds are given.
        same_pairs: how many there are.
        different_pairs: how many there are.
    """

    auc: float
    equal_error_rate: float
    accuracy: float
    threshold: float
    tar_at_far: tuple[TarAtFar, ...]
    k_fold: KFoldAccuracy | None
    same_pairs: int
    different_pairs: int


def verification_score(
    pairs: ScoredPairs, *, folds: np.ndarray | None = None, fars: Sequence[float] = STATED_RATES
) -> VerificationScore:
    """Returns all scores of scored pairs.

    Args:
        pairs: cosines and truth.
        folds: [count] integer, the protocol's fold of each pair; None measures no `k_fold`.
        fars: the false accept rates of `tar_at_far`.

    Raises:
        ValueError: `folds` or `fars` breaks a rule.
    """
    roc = roc_curve(pairs)
    threshold, accuracy = best_threshold(pairs)
    return VerificationScore(
        auc=area_under(roc),
        equal_error_rate=equal_error_rate(roc),
        accuracy=accuracy,
        threshold=threshold,
        tar_at_far=tuple(tar_at_far(pairs, far=far) for far in fars),
        k_fold=None if folds is None else k_fold_accuracy(pairs, folds),
        same_pairs=int(pairs.same.sum()),
        different_pairs=int((~pairs.same).sum()),
    )


def roc_curve(pairs: ScoredPairs) -> Roc:
    """Returns the ROC curve; pairs of equal score are accepted together."""
    thresholds, accepted_same, accepted_different = _accepted(pairs)
    return Roc(
        false_accept_rate=accepted_different / accepted_different[-1],
        true_accept_rate=accepted_same / accepted_same[-1],
        thresholds=thresholds,
    )


def area_under(roc: Roc) -> float:
    """Returns the area under the curve, 0..1; equal scores count one half."""
    return float(np.trapezoid(roc.true_accept_rate, roc.false_accept_rate))


def equal_error_rate(roc: Roc) -> float:
    """Returns the rate at which false accepts and false rejects are equal, 0..1, between points on the line."""
    excess = roc.false_accept_rate - (1.0 - roc.true_accept_rate)
    # It rises from -1 to 1.
    after = int(np.argmax(excess >= 0))
    share = excess[after - 1] / (excess[after - 1] - excess[after])
    left, right = roc.false_accept_rate[after - 1], roc.false_accept_rate[after]
    return float(left + share * (right - left))


def best_threshold(pairs: ScoredPairs) -> tuple[float, float]:
    """Returns the threshold at which most pairs are classified correctly, and that share, 0..1.

    It lies midway between the lowest accepted and the highest rejected score; of several it is the highest.
    """
    thresholds, accepted_same, accepted_different = _accepted(pairs)
    right = accepted_same + accepted_different[-1] - accepted_different
    best = int(np.argmax(right))
    return _between(thresholds, best), float(right[best] / len(pairs.same))


def k_fold_accuracy(pairs: ScoredPairs, folds: np.ndarray) -> KFoldAccuracy:
    """Returns the accuracy of each fold at the best threshold of all other folds.

    Source: Huang et al., "Labeled Faces in the Wild: A Database for Studying Face Recognition in Unconstrained
    Environments", 2007, section III-A (View 2).

    Args:
        pairs: cosines and truth.
        folds: [count] integer, the fold of each pair as the protocol says; two folds or more.

    Raises:
        ValueError: shapes differ, there is one fold only, or the rest of a fold holds pairs of one kind only.
    """
    if folds.shape != pairs.same.shape:
        raise ValueError(f"`folds` {folds.shape} must be {pairs.same.shape}, one a pair.")
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise ValueError(f"`folds` must have at least two folds; there is {len(numbers)}.")
    accuracies, thresholds = [], []
    for number in numbers:
        held = folds == number
        threshold, _ = best_threshold(pairs.part(~held))
        accepted = pairs.cosine[held].astype(np.float64) >= threshold
        accuracies.append(float((accepted == pairs.same[held]).mean()))
        thresholds.append(threshold)
    return KFoldAccuracy(
        mean=float(np.mean(accuracies)),
        standard_error=float(np.std(accuracies, ddof=1) / math.sqrt(len(numbers))),
        accuracies=tuple(accuracies),
        thresholds=tuple(thresholds),
    )


def tar_at_far(pairs: ScoredPairs, *, far: float) -> TarAtFar:
    """Returns the true accept rate at which at most `far` of the different pairs are accepted.

    Args:
        pairs: cosines and truth.
        far: above 0, at most 1.

    Raises:
        ValueError: `far` breaks its rule.
    """
    if not 0.0 < far <= 1.0:
        raise ValueError(f"`far` (={far}) must be above 0 and at most 1.")
    thresholds, accepted_same, accepted_different = _accepted(pairs)
    same, different = int(accepted_same[-1]), int(accepted_different[-1])
    needed = pairs_needed(far)
    if different < needed:
        return TarAtFar(far, None, None, None, None, different, needed)
    allowed = pairs_allowed(far, different)
    last = int(np.searchsorted(accepted_different, allowed, side="right")) - 1
    accepted = int(accepted_same[last])
    threshold = float(thresholds[last]) if last else _between(thresholds, 0)

    def interval(at: float, kind: np.ndarray) -> tuple[float, float]:
        passing = pairs.cosine[kind].astype(np.float64) >= at
        return pair_interval(passing, None if pairs.classes is None else pairs.classes[kind])

    def passed_by(count: float) -> float:
        place = int(np.searchsorted(accepted_different, count, side="right")) - 1
        return float(thresholds[place]) if place else _between(thresholds, 0)

    fewest, most = binomial_interval(different, far)
    if pairs.classes is not None:
        of_classes = interval(threshold, ~pairs.same)
        fewest, most = min(fewest, of_classes[0] * different), max(most, of_classes[1] * different)
    low, _ = interval(passed_by(fewest), pairs.same)
    _, high = interval(passed_by(most), pairs.same)
    return TarAtFar(far, threshold, accepted / same, low, high, different, needed)


def _accepted(pairs: ScoredPairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the distinct scores, falling, after infinity, and how many same and different pairs each accepts."""
    scores = pairs.cosine.astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    sorted_scores, same = scores[order], pairs.same[order].astype(np.int64)
    # The last of each run of equal scores.
    ends = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)
    accepted_same = np.cumsum(same)[ends]
    return (
        np.concatenate([[np.inf], sorted_scores[ends]]),
        np.concatenate([[0], accepted_same]),
        np.concatenate([[0], ends + 1 - accepted_same]),
    )


def _between(thresholds: np.ndarray, number: int) -> float:
    """Returns a finite threshold that accepts what `thresholds[number]` does, away from the next score."""
    if number == 0:
        return float(np.nextafter(thresholds[1], np.inf))
    if number + 1 == len(thresholds):
        return float(thresholds[number])
    lower = float(thresholds[number + 1])
    middle = lower + (float(thresholds[number]) - lower) / 2
    return middle if middle > lower else float(thresholds[number])
