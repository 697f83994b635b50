"""Confidence intervals of measured shares."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

RESAMPLES = 1000
_RESAMPLES_AT_ONCE = 50
_WEIGHTS_AT_ONCE = 4 << 20
"""Of pairs of classes, float64, in resamples that are computed together."""


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval of a share, without continuity correction.

    It stays within 0..1 and has a width even at 0 and at all successes, where the normal approximation has none.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.

    Args:
        successes: 0..trials.
        trials: independent trials; with none the interval is 0..1.
        confidence: how often such an interval holds the true share, 0..1, both not included.

    Returns:
        Low and high end, 0..1.

    Raises:
        ValueError: a value breaks its rule.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"`successes` (={successes}) must lie in 0..`trials` (={trials}).")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"`confidence` (={confidence}) must lie between 0 and 1.")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    whole = 1 + z * z / trials
    # The ends are exact there; rounding would leave 1e-18.
    low = 0.0 if successes == 0 else (centre - half) / whole
    high = 1.0 if successes == trials else (centre + half) / whole
    return low, high


def binomial_interval(trials: int, share: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Returns how many of independent trials succeed: the ends that this is below or above in equally few cases.

    Args:
        trials: 1 or more.
        share: of them that succeed on average, above 0, at most 1.
        confidence: how often the number lies between the ends, which are included, at least; 0..1, both not included.
    """
    if share >= 1.0:
        return float(trials), float(trials)
    tried = np.arange(trials, dtype=np.float64)
    steps = np.log((trials - tried) / (tried + 1.0)) + math.log(share / (1.0 - share))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    chances = np.exp(logs - logs.max())
    below = np.cumsum(chances) / chances.sum()
    ends = np.searchsorted(below, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(ends[0]), float(ends[1])


def pair_interval(counted: np.ndarray, classes: np.ndarray | None) -> tuple[float, float]:
    """Returns the ends of the 95 % interval of a share of pairs; the wider ones where there are two intervals.

    Args:
        counted: [count] bool, the pairs that count.
        classes: [count, 2] integer, the classes of each pair's pictures; None: each pair is taken for independent.
    """
    low, high = wilson_interval(int(counted.sum()), len(counted))
    if classes is None:
        return low, high
    other_low, other_high = class_bootstrap_interval(counted, classes)
    return min(low, other_low), max(high, other_high)


def class_bootstrap_interval(
    wrong: np.ndarray, classes: np.ndarray, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Returns the interval of a share of pairs over pictures of other classes: the percentiles of its resamples.

    Pairs that share a class, or its pictures, go wrong together; so classes are drawn with replacement, not pairs.
    A pair of one class counts as often as its class was drawn, one of two classes as often as both were, multiplied.
    If hardly any pair is wrong, or there are few classes, it is too narrow.

    Source: Snijders and Borgatti, "Non-Parametric Standard Errors and Tests for Network Statistics", Connections 1999
    (the vertex bootstrap); Bolle, Ratha and Pankanti, "Error Analysis of Pattern Recognition Systems - the Subsets
    Bootstrap", CVIU 2004 (on error rates of pairs).

    Args:
        wrong: [count] bool, which pairs count; one pair or more.
        classes: [count, 2] integer, the classes of each pair's pictures.
        confidence: how often such an interval holds the true share, 0..1, both not included.
        seed: of the draws.

    Returns:
        Low and high end, 0..1.
    """
    numbers, places = np.unique(classes, return_inverse=True)
    low, high = np.sort(places.reshape(classes.shape), axis=1).T
    cells, of_pair = np.unique(low * len(numbers) + high, return_inverse=True)
    left, right = np.divmod(cells, len(numbers))
    of_cell = np.stack([np.bincount(of_pair), np.bincount(of_pair, weights=wrong)], axis=1)
    rng = np.random.default_rng(seed)
    shares = []
    at_once = max(1, min(_RESAMPLES_AT_ONCE, _WEIGHTS_AT_ONCE // len(cells)))
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        drawn = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size).astype(np.float64)
        counts = drawn[:, left] * np.where(left == right, 1.0, drawn[:, right])
        pairs, of_these = (counts @ of_cell).T
        # A resample may have no pair, of two classes say.
        shares.append(of_these[pairs > 0] / pairs[pairs > 0])
    ends = np.quantile(np.concatenate(shares), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(ends[0]), float(ends[1])
