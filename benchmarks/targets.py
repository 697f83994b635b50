"""Figures that have to hold: each a ratio or a difference within one run, the median over runs, and its bound."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict


class Target(TypedDict):
    """One figure.

    Attributes:
        figure: what it is of, for a person.
        bound: what it has to be.
        way: on which side of the bound it has to be.
        unit: of both; empty: a ratio.
        runs: its values.
        measured: their median.
        holds: whether that meets the bound.
    """

    figure: str
    bound: float
    way: Literal["at least", "at most"]
    unit: str
    runs: list[float]
    measured: float
    holds: bool


def at_least(bound: float, figure: str, runs: Sequence[float], *, unit: str = "") -> Target:
    """Returns a figure whose median over `runs` must be at least `bound`."""
    return _target(bound, "at least", figure, runs, unit)


def at_most(bound: float, figure: str, runs: Sequence[float], *, unit: str = "") -> Target:
    """Returns a figure whose median over `runs` must be at most `bound`."""
    return _target(bound, "at most", figure, runs, unit)


def _target(bound: float, way: Literal["at least", "at most"], figure: str, runs: Sequence[float], unit: str) -> Target:
    median = statistics.median(runs)
    return Target(
        figure=figure,
        bound=bound,
        way=way,
        unit=unit,
        runs=[round(one, 4) for one in runs],
        measured=round(median, 4),
        holds=median >= bound if way == "at least" else median <= bound,
    )


def table(targets: Iterable[Target]) -> list[str]:
    """Returns the lines of a table in Markdown."""
    lines = ["| figure | bar | measured | |", "| --- | ---: | ---: | --- |"]
    for one in targets:
        unit = f" {one['unit']}" if one["unit"] else ""
        holds = "holds" if one["holds"] else "**missed**"
        lines.append(
            f"| {one['figure']} | {one['way']} {one['bound']:g}{unit} | {_short(one['measured'])}{unit} | {holds} |"
        )
    return lines


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
