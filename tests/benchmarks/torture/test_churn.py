"""Adding, searching, deleting and growing at once: no crash, and every item's history is linearizable."""

from __future__ import annotations

from benchmarks.torture.churn import churned, impossible
from benchmarks.torture.churned_collection import REGISTERS


def test_what_clients_are_told_while_all_changes_fits_one_order() -> None:
    failures, histories = churned(2.0, seed=5)
    assert failures == []
    assert len(histories) == REGISTERS
    assert impossible(histories) == []
