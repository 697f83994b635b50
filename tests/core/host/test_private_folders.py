"""Folders that only this account may use."""

import os
import stat
from pathlib import Path

import pytest

from twinsight_core.host.private_folders import make_private


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_all_folders_that_are_made_are_private_and_those_that_exist_stay(tmp_path: Path, umask: int) -> None:
    there, before = tmp_path / "there", os.umask(umask)
    try:
        there.mkdir(mode=0o755)
        mode = there.stat().st_mode
        for _ in range(2):
            make_private(there / "cache" / "xla")
    finally:
        os.umask(before)
    assert there.stat().st_mode == mode
    for made in (there / "cache", there / "cache" / "xla"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
