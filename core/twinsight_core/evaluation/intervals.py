"""How sure a measured share is."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval of a share, without continuity correction.

    It stays within 0..1 and says something at 0 and at all successes, where the normal approximation has no width.

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
