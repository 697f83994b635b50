"""A graph's file may be damaged in any way: no crash, no wrong answer, and the graph comes back."""

from __future__ import annotations

from benchmarks.torture.snapshot_damage import DAMAGES, cases


def test_no_damage_to_snapshots_crashes_or_shows_in_answers() -> None:
    shown = list(cases(len(DAMAGES), seed=3))
    assert shown == [(kind, "") for kind in DAMAGES]


def test_damaged_snapshots_that_are_trusted_do_break_something() -> None:
    assert any(what for _, what in cases(8, seed=3, trusting=True))
