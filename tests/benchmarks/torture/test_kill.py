"""The process is killed at random moments, and nothing that was acknowledged is lost.

`TWINSIGHT_KILLS` is the number of kills, 12 by default; `TWINSIGHT_KILLS_SEED` chooses the moments, and is printed.
"""

import importlib.util
import operator
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collection import Collection
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, SearchOptions
from twinsight_core.store import FILE_NAME, Store

_PROGRAM = Path(__file__).with_name("writer.py")
_SPEC = importlib.util.spec_from_file_location("crash_writer", _PROGRAM)
assert _SPEC is not None
assert _SPEC.loader is not None
writer = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(writer)

KILLS = int(os.environ.get("TWINSIGHT_KILLS", "12"))
SEED = int(os.environ.get("TWINSIGHT_KILLS_SEED", str(time.time_ns())))
# Moments are counted in lines, so that a slow disk makes the test slow and changes nothing else.
MOST_LINES = 400


@dataclass
class Reported:
    """What the writers said: the state that was acknowledged, and the request of each thread that was not."""

    batches: dict[int, bool] = field(default_factory=dict)  # acknowledged: true while it is there
    shared: dict[int, int] = field(default_factory=dict)  # by thread: the last acknowledged batch
    open: dict[int, tuple[str, int]] = field(default_factory=dict)  # by thread

    def read(self, lines: list[str]) -> None:
        """Takes in the lines of one run. What was open before was settled by `settle`."""
        for line in lines:
            match line.split():
                case ["begin", number, kind, batch]:
                    self.open[int(number) % 2] = (kind, int(batch))
                case ["done", number]:
                    thread = int(number) % 2
                    self.settle(thread, done=True)

    def settle(self, thread: int, *, done: bool) -> None:
        """Counts a thread's open request as done or as never made."""
        kind, batch = self.open.pop(thread)
        if done:
            self.batches[batch] = kind == "upsert"
            if kind == "upsert":
                self.shared[thread] = batch


def _killed_run(folder: Path, seed: int, count: int, more: float) -> list[str]:
    """Runs the writers, kills them, and returns the whole lines they said.

    They are killed after `count` lines and the time that `more` lines take: a line is said before or after a commit,
    and the kill has to come in the midst of one too.
    """
    command = [sys.executable, str(_PROGRAM), str(folder), str(seed)]
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


def _check(collection: Collection, reported: Reported) -> None:
    """Compares what is there with what was reported, and settles what was open by what is there."""
    items = {}
    after: int | None = 0
    while after is not None:
        page, after = collection.page(after=after, limit=1000, filter=None, include_vectors=True)
        items.update({item.id: item for item in page})
    assert len(items) == collection.status().item_count

    for thread, (kind, batch) in list(reported.open.items()):
        own = [name for name in writer.names_of(batch, thread) if name.startswith("b")]
        there = {name in items for name in own}
        assert len(there) == 1, f"{kind} of batch {batch} was done by half"
        reported.settle(thread, done=there == {kind == "upsert"})

    expected = {
        name: batch
        for batch, there in reported.batches.items()
        if there
        for name in writer.names_of(batch, batch % 2)
        if name.startswith("b")
    }
    for thread, batch in reported.shared.items():
        expected |= {name: batch for name in writer.names_of(batch, thread) if name.startswith("shared")}
    assert set(items) == set(expected)
    for name, batch in expected.items():
        vector = items[name].vector
        assert vector is not None
        assert np.array_equal(vector, writer.vector_of(name, batch))
        assert items[name].metadata == {"batch": batch}

    names = list(expected)[:: max(1, len(expected) // 100)]
    queries = np.stack([writer.vector_of(name, expected[name]) for name in names])
    exact = collection.search(queries, SearchOptions(1, exact=True))
    assert [one[0].id for one in exact] == names
    # A walk as narrow as this one may miss a point, but finds nothing that is not there.
    walked = [one[0].id for one in collection.search(queries, SearchOptions(1))]
    assert set(walked) <= set(expected)
    assert sum(map(operator.eq, walked, names)) >= 0.95 * len(names)


@pytest.mark.timeout(60 + 10 * KILLS)
def test_nothing_acknowledged_is_lost_and_nothing_deleted_returns(tmp_path: Path) -> None:
    folder = tmp_path / "things"
    folder.mkdir()
    Store.create(folder / FILE_NAME, CollectionSpec("things", writer.DIMENSION, Metric.EUCLIDEAN))
    print(f"TWINSIGHT_KILLS_SEED={SEED}")  # noqa: T201 - shown when the test fails
    rng = random.Random(SEED)
    reported = Reported()
    for kill in range(1, KILLS + 1):
        # The first run is long, so that there is enough to lose whatever the others are.
        count = MOST_LINES if kill == 1 else rng.randint(1, MOST_LINES)
        reported.read(_killed_run(folder, kill, count, rng.uniform(0.0, 8.0)))
        collection = Collection(folder, writer.OPTIONS)
        _check(collection, reported)
        # Every other time the next writers find what the killed ones left, not what a close has tidied.
        collection.close(snapshot=kill % 2 == 0)
    assert sum(reported.batches.values()) > MOST_LINES // 20
    assert not all(reported.batches.values())
