"""A backup made beside a server that ingests holds an acknowledged prefix, and serves elsewhere."""

from __future__ import annotations

from pathlib import Path

from benchmarks.torture.backup import backups

from e2e.conftest import config, running


def test_backups_beside_ingesting_streams_hold_what_was_acknowledged(tmp_path: Path, cache_dir: Path) -> None:
    with running(config(tmp_path / "data", cache_dir)) as made:
        flaws, counts = backups(made.address, tmp_path / "data", tmp_path, 4, seed=3)
    assert flaws == []
    assert counts["batches"] >= 4
    assert counts["damaged and refused"] == 4
