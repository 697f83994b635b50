"""Files that can be made anew, and when they go."""

from __future__ import annotations

import os
import time
from pathlib import Path

from twinsight_core.executors.kept_files import UNUSED_DAYS, forget_unused, keep, read_kept


def age(file: Path, days: float) -> None:
    """Makes a file one that was last used so many days ago."""
    then = time.time() - days * 24 * 3600
    os.utime(file, (then, then))


def test_what_was_not_used_for_long_goes_and_what_was_used_stays(tmp_path: Path) -> None:
    for name in ("unused", "used", "recent"):
        assert keep(tmp_path / name, b"content")
    age(tmp_path / "unused", UNUSED_DAYS + 1)
    age(tmp_path / "used", UNUSED_DAYS + 1)
    age(tmp_path / "recent", UNUSED_DAYS - 1)
    (tmp_path / "folder").mkdir()
    age(tmp_path / "folder", UNUSED_DAYS + 1)
    assert read_kept(tmp_path / "used") == b"content"
    forget_unused(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder", "recent", "used"]


def test_where_there_is_no_cache_nothing_is_forgotten(tmp_path: Path) -> None:
    forget_unused(tmp_path / "nowhere")
