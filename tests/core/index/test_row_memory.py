"""Vectors in memory and in a file without a name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.index.row_memory import MAPPED_BYTES, RowMemory

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


def test_however_much_is_looked_at_little_of_a_file_is_in_the_process(tmp_path: Path) -> None:
    memory = RowMemory(DIMENSION, 40_000, folder=tmp_path)  # 40 MB
    before = file_backed_kib()
    memory.write(0, np.broadcast_to(np.arange(40_000, dtype=np.float32)[:, None], (40_000, DIMENSION)))
    most = before + 3 * MAPPED_BYTES // 1024
    assert file_backed_kib() < most
    for row in range(0, 40_000, 60):
        assert memory.look_at(memory.rows, np.array([row]))[0, 7] == row
    assert file_backed_kib() < most
    total = 0.0
    for first in range(0, 40_000, 1000):
        total += float(memory.look_at(memory.rows, slice(first, first + 1000)).sum(dtype=np.float64))
        assert file_backed_kib() < most
    assert total == DIMENSION * 40_000 * 39_999 / 2


def test_rows_may_be_of_another_type(folder: Path | None) -> None:
    memory = RowMemory(3, 2, folder=folder, dtype=np.int8)
    memory.write(0, np.array([[1, 2, 3], [-127, 0, 127]]))
    memory.grow(9)
    assert memory.rows.dtype == np.int8
    assert memory.in_file == (folder is not None)
    assert memory.look_at(memory.rows, np.array([[1, 0]])).tolist() == [[[-127, 0, 127], [1, 2, 3]]]
