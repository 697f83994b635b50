"""The type of options that are numbers."""

from __future__ import annotations

from math import isfinite

import click


class FiniteRange(click.FloatRange):
    """A number within bounds that is finite: `nan` passes click's own bounds, and `inf` those without an end."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns the number."""
        if not isfinite(number := super().convert(value, param, ctx)):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number
