"""The error rates at which models are evaluated, and how many different pairs a rate requires."""

from __future__ import annotations

import math

STATED_RATES = (0.1, 0.01, 0.001)
# With none of 3 / rate different pairs passing, the rate is below the stated one with 95 % confidence (rule of three).
_PAIRS_FOR_RATE = 3.0
_ROUNDING = 1e-6


def pairs_needed(rate: float) -> int:
    """Returns how many different pairs are needed to state a rate, above 0 and at most 1."""
    # Less a little: 3 / 1e-3 is above 3,000.
    return math.ceil(_PAIRS_FOR_RATE / rate - _ROUNDING)


def pairs_allowed(rate: float, different: int) -> int:
    """Returns how many of `different` pairs may pass at a rate, 0..1."""
    # More by a little: 0.29 x 100 is below 29.
    return math.floor(rate * different + _ROUNDING)
