"""Replacing half the items again and again leaves every item within reach, and recall as it was."""

from __future__ import annotations

from benchmarks.torture.replacement import LEAST_COUNT, LEAST_RECALL, replaced


def test_items_stay_within_reach_when_half_of_them_are_replaced() -> None:
    shown = replaced(LEAST_COUNT, 3, seed=1)
    assert shown.unreachable == 0
    assert len(shown.recalls) == 4
    assert min(shown.recalls + shown.recalls_at_once) >= LEAST_RECALL
