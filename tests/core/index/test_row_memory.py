"""Vectors in memory and in a file without a name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.index.row_memory import RowMemory

DIMENSION = 256


@pytest.fixture(params=["memory", "disk"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "disk" else None


def test_rows_stay_when_it_grows_and_arrays_that_were_taken_too(folder: Path | None) -> None:
    memory = RowMemory(2, 2, folder=folder)
    memory.rows[:] = [[1, 2], [3, 4]]
    taken = memory.rows[:2]
    memory.grow(1000)
    assert memory.rows.shape == (1000, 2)
    memory.rows[2:] = 7
    memory.release()
    np.testing.assert_array_equal(taken, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(memory.rows[:4], [[1, 2], [3, 4], [7, 7], [7, 7]])


def test_the_file_has_no_name(tmp_path: Path) -> None:
    memory = RowMemory(2, 2, folder=tmp_path)
    memory.rows[:] = 1
    assert not list(tmp_path.iterdir())


def file_backed_kib() -> int:
    """Pages of files in this process's memory, not those that are only in the page cache."""
    status = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in status if line.startswith(("RssFile", "RssShmem")))


def test_released_rows_are_not_in_the_process_and_come_back(tmp_path: Path) -> None:
    memory = RowMemory(DIMENSION, 40_000, folder=tmp_path)  # 40 MB
    memory.rows[:] = np.arange(40_000, dtype=np.float32)[:, None]
    full = file_backed_kib()
    memory.release()
    assert file_backed_kib() < full - 30_000
    np.testing.assert_array_equal(memory.rows[[0, 39_999], 5], [0, 39_999])


def test_without_room_on_the_disk_rows_are_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    memory = RowMemory(2, 2, folder=tmp_path)
    memory.rows[:] = [[1, 2], [3, 4]]
    taken = memory.rows

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    memory.grow(4)
    assert "No space left on device" in caplog.text
    memory.rows[2:] = 5
    memory.release()
    np.testing.assert_array_equal(memory.rows, [[1, 2], [3, 4], [5, 5], [5, 5]])
    np.testing.assert_array_equal(taken, [[1, 2], [3, 4]])
    memory.grow(8)
    np.testing.assert_array_equal(memory.rows[:4], [[1, 2], [3, 4], [5, 5], [5, 5]])
