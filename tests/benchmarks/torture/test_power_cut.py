"""The power goes at any moment, and nothing that was acknowledged is lost."""

from __future__ import annotations

import pytest
from benchmarks.torture.power_cut import Without, cases


def test_a_power_cut_loses_nothing_that_was_acknowledged() -> None:
    failures, figures = cases(12, seed=7)
    assert failures == []
    assert int(figures["acknowledged writes"]) > 50


@pytest.mark.parametrize("without", [Without.STORE_SYNCS, Without.SNAPSHOT_SYNCS])
def test_without_syncs_the_same_cuts_break_something(without: Without) -> None:
    failures, _ = cases(8, seed=7, without=without)
    assert failures
