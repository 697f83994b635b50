"""Numbers as options."""

from __future__ import annotations

import math

import click


class FiniteRange(click.FloatRange):
    """A finite number within bounds; click takes `nan`, which is within any, and `inf`."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns the number; fails if it is none, not finite or out of bounds."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number
