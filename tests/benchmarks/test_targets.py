"""Metrics with a target."""

from __future__ import annotations

from benchmarks.targets import at_least, at_most, table


def test_the_median_of_the_runs_decides() -> None:
    assert at_least(0.9, "rate", [0.1, 0.9, 2.0])["holds"]
    assert not at_least(0.9, "rate", [0.1, 0.89, 2.0])["holds"]
    assert at_most(50, "time", [1, 50, 1000])["holds"]
    assert not at_most(50, "time", [1, 50.5, 51])["holds"]


def test_what_is_missed_stands_out() -> None:
    lines = table([at_least(0.9, "rate", [0.8]), at_most(50, "time", [11.26], unit="ms")])
    assert lines[2:] == [
        "| rate | at least 0.9 | 0.800 | **no** |",
        "| time | at most 50 ms | 11.3 ms | yes |",
    ]
