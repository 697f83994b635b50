"""Figures of two peers set against each other, run by run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers.peer import Stand


@dataclass(frozen=True)
class Bar:
    """One comparison.

    Attributes:
        name: in the results.
        peer: whose figure stands on top.
        other: whose figure it is divided by, or that is taken from it.
        figure: of `peer`.
        other_figure: of `other`; empty: the same.
        difference: whether the other is taken from it instead.
    """

    name: str
    peer: str
    other: str
    figure: str
    other_figure: str = ""
    difference: bool = False


def compare(bars: Sequence[Bar], stands: Sequence[Stand]) -> dict[str, dict[str, object]]:
    """Returns for each bar its value in each run and the median, or why there is none."""
    known = {stand.peer.name: stand for stand in stands}
    return {bar.name: _one(bar, known) for bar in bars}


def _one(bar: Bar, known: Mapping[str, Stand]) -> dict[str, object]:
    for name in (bar.peer, bar.other):
        if known[name].failed:
            return {"missing": f"{name} failed"}
    top = [run[bar.figure] for run in known[bar.peer].runs]
    other = [run[bar.other_figure or bar.figure] for run in known[bar.other].runs]
    values = [round(a - b if bar.difference else a / b, 3) for a, b in zip(top, other, strict=True)]
    sign = "-" if bar.difference else "/"
    told = f"{bar.peer} {bar.figure} {sign} {bar.other} {bar.other_figure or bar.figure}"
    return {"of": told, "runs": values, "median": round(statistics.median(values), 3)}
