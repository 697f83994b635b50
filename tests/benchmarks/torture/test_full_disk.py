"""The disk is full at any write: a clean status, searches go on, and it recovers when there is room."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.torture.full_disk import on_small_disk, simulated
from benchmarks.torture.small_disk import small_disk

SEED = 11
EVERY = 12


def test_a_disk_with_room_refuses_nothing() -> None:
    disk, worked = simulated(None, SEED)
    assert (worked.flaws, worked.refused.total(), disk.failed) == ([], 0, 0)


@pytest.mark.parametrize("once", [False, True])
def test_a_disk_that_is_full_at_any_write_is_told_and_changes_nothing(once: bool) -> None:
    refused = 0
    whole, _ = simulated(None, SEED)
    for full_at in range(1, whole.steps, EVERY):
        _, worked = simulated(full_at, SEED, once=once)
        assert worked.flaws == [], f"full at write {full_at}"
        refused += worked.refused.total()
    assert refused > 5


def test_a_real_disk_that_is_full_is_told_and_changes_nothing(tmp_path: Path) -> None:
    refused = 0
    for left in range(0, 128 << 10, 20 << 10):
        folder = tmp_path / f"{left}"
        folder.mkdir()
        with small_disk(folder) as disk:
            if disk is None:
                pytest.skip("this system lets no file system be mounted")
            worked = on_small_disk(disk, left, SEED)
        assert worked.flaws == [], f"{left} bytes left"
        refused += worked.refused.total()
    assert refused
