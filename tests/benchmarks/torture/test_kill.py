"""The process is killed at random moments, and nothing that was acknowledged is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from benchmarks.torture.kill import kills


@pytest.mark.parametrize("encrypted", [False, True])
def test_nothing_acknowledged_is_lost_and_nothing_deleted_returns(tmp_path: Path, *, encrypted: bool) -> None:
    shown = kills(tmp_path, 6, seed=time.time_ns() % 1_000_003, encrypted=encrypted)  # a failure names the seed
    assert shown.flaws == []
    assert shown.count == 6
    assert shown.acknowledged > 100
    assert shown.deleted > 10
