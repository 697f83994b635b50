"""Metrics with a target: each a ratio or a difference within one run, the median over runs, and its bound."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict


class Target(TypedDict):
    """One metric.

    Attributes:
        figure: what is measured, for a person.
        bound: the target.
        way: on which side of the bound the metric must lie.
        unit: of the bound and the values; empty for a ratio.
        runs: the value of each run.
        measured: their median.
        holds: whether the median meets the target.
    """

    figure: str
    bound: float
    way: Literal["at least", "at most"]
    unit: str
    runs: list[float]
    measured: float
    holds: bool


def at_least(bound: float, figure: str, runs: Sequence[float], *, unit: str = "") -> Target:
    """Returns a metric whose median over `runs` must be at least `bound`."""
    return _target(bound, "at least", figure, runs, unit)


def at_most(bound: float, figure: str, runs: Sequence[float], *, unit: str = "") -> Target:
    """Returns a metric whose median over `runs` must be at most `bound`."""
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
    lines = ["| Metric | Target | Measured | Met |", "| --- | ---: | ---: | --- |"]
    for one in targets:
        met = "yes" if one["holds"] else "**no**"
        lines.append(f"| {one['figure']} | {bound_text(one)} | {measured_text(one)} | {met} |")
    return lines


def bound_text(target: Target) -> str:
    """Returns what a metric must be, with its unit: `at most 50 ms`."""
    return f"{target['way']} {target['bound']:g}{_unit(target)}"


def measured_text(target: Target) -> str:
    """Returns the median of a metric, with its unit."""
    value = target["measured"]
    return (f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}") + _unit(target)


def _unit(target: Target) -> str:
    return f" {target['unit']}" if target["unit"] else ""
