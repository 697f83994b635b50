"""The process is killed in the midst of purges, and nothing that was purged is on the disk after the next start.

`TWINSIGHT_PURGE_KILLS` is the number of kills, 6 by default; `TWINSIGHT_KILLS_SEED` chooses the moments, and is
printed.
"""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from twinsight_core.collection import Collection
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec
from twinsight_core.store import FILE_NAME, Store

_PROGRAM = Path(__file__).with_name("purger.py")
_SPEC = importlib.util.spec_from_file_location("crash_purger", _PROGRAM)
assert _SPEC is not None
assert _SPEC.loader is not None
purger = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(purger)

KILLS = int(os.environ.get("TWINSIGHT_PURGE_KILLS", "6"))
SEED = int(os.environ.get("TWINSIGHT_KILLS_SEED", str(time.time_ns())))
MOST_LINES = 40


def _killed_run(folder: Path, run: int, count: int, more: float) -> list[str]:
    """Runs the program, kills it after `count` lines and the time that `more` lines take; returns its whole lines."""
    command = [sys.executable, str(_PROGRAM), str(folder), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline()]
        begun = time.monotonic()
        lines += [process.stdout.readline() for _ in range(count - 1)]
        with suppress(subprocess.TimeoutExpired):
            process.wait(more * (time.monotonic() - begun) / count)
        process.kill()
        lines += process.stdout.readlines()
        errors = process.stderr.read()
    assert process.returncode == -signal.SIGKILL, errors
    assert not errors
    return [line.strip() for line in lines if line.endswith("\n")]


def _traces(folder: Path, name: str) -> set[str]:
    """Returns the files that hold an item's id, metadata, or any two components of its vector."""
    whole = purger.vector_of(name).astype("<f4").tobytes()
    marks = [name.encode(), *(whole[at : at + 8] for at in range(0, len(whole) - 4, 4))]
    contents = {file.name: file.read_bytes() for file in folder.iterdir()}
    return {file for file, content in contents.items() if any(mark in content for mark in marks)}


@pytest.mark.timeout(60 + 20 * KILLS)
def test_a_purge_is_done_at_the_latest_by_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "things"
    folder.mkdir()
    Store.create(folder / FILE_NAME, CollectionSpec("things", purger.DIMENSION, Metric.EUCLIDEAN))
    print(f"TWINSIGHT_KILLS_SEED={SEED}")  # noqa: T201 - shown when the test fails
    rng = random.Random(SEED)
    purged: set[str] = set()
    for kill in range(1, KILLS + 1):
        lines = _killed_run(folder, kill, rng.randint(2, MOST_LINES), rng.uniform(0.0, 4.0))
        begun = {f"p{line.split()[1]}-0" for line in lines if line.startswith("begin")}
        done = {f"p{line.split()[1]}-0" for line in lines if line.startswith("done")}
        # What is acknowledged is erased already, whatever the process was doing when it was killed.
        assert {name for name in done if _traces(folder, name)} == set()
        with closing(Collection(folder, purger.OPTIONS)) as collection:
            there = {name for name in begun if collection.get([name]) != [None]}
            assert not there & done
            purged |= begun - there
            kept = [name.removesuffix("-0") + "-1" for name in begun]
            assert None not in collection.get(kept)
            assert collection.wait_indexed(60)
        assert {name for name in purged if _traces(folder, name)} == set()
    assert len(purged) >= KILLS
