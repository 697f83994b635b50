"""What the cache keeps between starts, and what it does not."""

from __future__ import annotations

import os
import time
from pathlib import Path

from e2e.conftest import config, running
from twinsight_core.executors.kept_files import UNUSED_DAYS


def test_a_start_deletes_what_none_has_used_for_long(tmp_path: Path, cache_dir: Path) -> None:
    folders = (cache_dir / "exported", cache_dir / "xla")
    unused, used = ([folder / f"{name}-cache" for folder in folders] for name in ("left", "used"))
    then = time.time() - (UNUSED_DAYS + 1) * 24 * 3600
    for file in (*unused, *used):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for file in unused:
        os.utime(file, (then, then))
    with running(config(tmp_path, cache_dir)):
        assert not any(file.exists() for file in unused)
        assert all(file.exists() for file in used)
