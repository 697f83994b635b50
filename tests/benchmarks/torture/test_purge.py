"""The process is killed in the midst of purges, and nothing that was purged is on the disk after the next start."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from benchmarks.torture.purge import contents, kills, traces, traces_without_purge

from benchmarks.torture import purging_writer as writer


def test_a_purge_is_done_at_the_latest_by_the_next_start(tmp_path: Path) -> None:
    shown = kills(tmp_path, 5, seed=time.time_ns() % 1_000_003)  # a failure names the seed
    assert shown.flaws == []
    assert shown.count == 5
    assert shown.purged >= 5


def test_what_is_deleted_and_not_purged_is_found_by_the_scan(tmp_path: Path) -> None:
    assert traces_without_purge(tmp_path).keys() == {"p1000000-0"}


def test_the_scan_finds_an_id_and_two_components_at_any_byte(tmp_path: Path) -> None:
    names = ["p1000000-0", "p1000001-0", "p1000002-0"]
    (tmp_path / "a").write_bytes(b"..p1000000-0,p1000000-17")
    vector = writer.vector_of("p1000001-0", 1)
    (tmp_path / "b").write_bytes(b"abc" + vector[7:9].astype("<f4").tobytes() + b"d")
    (tmp_path / "c").write_bytes(writer.vector_of("p1000002-0", 0)[3:4].astype("<f4").tobytes() + np.zeros(9).tobytes())
    assert traces(tmp_path, names) == {"p1000000-0": "a", "p1000001-0": "b"}


def test_a_file_that_is_renamed_while_the_scan_reads_is_read_under_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "b.tmp").write_bytes(b"second")
    read = Path.read_bytes

    def renaming(file: Path) -> bytes:
        if (tmp_path / "b.tmp").exists():
            (tmp_path / "b.tmp").rename(tmp_path / "b")
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", renaming)
    assert contents(tmp_path) == {"a": b"first", "b": b"second"}
