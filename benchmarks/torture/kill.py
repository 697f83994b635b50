"""Promise 1: the process is killed at any moment, and nothing that was acknowledged is lost.

A child process writes (`killed_writer`) and is killed after a random number of the lines it tells, and the time that a
few more take: a line is told before or after a commit, and the kill has to come in the midst of one, of a snapshot, or
of opening, too. Moments are counted in lines, so that a slow disk makes a run slow and changes nothing else. Then the
collection is opened, compared with what was acknowledged, and the next child goes on with it.
"""

from __future__ import annotations

import operator
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.torture import killed_writer as writer
from benchmarks.torture.children import child
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import TwinsightError
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, Item, SearchOptions
from twinsight_core.storage.store import FILE_NAME, Store

KILLS = 200
MOST_LINES = 300
_KILLS_A_COLLECTION = 20


@dataclass
class Reported:
    """What the writers told: the state that was acknowledged, and the request of each thread that was not.

    Attributes:
        batches: batches whose writing was acknowledged; true while they are there.
        last: by thread: the last batch acknowledged.
        open: by thread: kind and batch of the request that was not answered.
        deleted: deletions acknowledged.
    """

    batches: dict[int, bool] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    open: dict[int, tuple[str, int]] = field(default_factory=dict)
    deleted: int = 0

    def read(self, lines: list[str]) -> None:
        """Takes in the lines of one run. What was open before was settled by `settle`."""
        for line in lines:
            match line.split():
                case ["begin", number, kind, batch]:
                    self.open[writer.thread_of(int(number))] = (kind, int(batch))
                case ["done", number]:
                    self.settle(writer.thread_of(int(number)), done=True)

    def settle(self, thread: int, *, done: bool) -> None:
        """Counts a thread's open request as done or as never made."""
        kind, batch = self.open.pop(thread)
        if not done:
            return
        self.batches[batch] = kind == "upsert"
        if kind == "upsert":
            self.last[thread] = batch
        else:
            self.deleted += 1

    def expected(self) -> dict[str, int]:
        """Returns the batch by id of all items that must be there, once nothing is open."""
        own = {name: batch for batch, there in self.batches.items() if there for name in writer.own_names(batch)}
        shared = {
            name: batch for batch in self.last.values() for name in writer.names_of(batch) if name.startswith("shared")
        }
        return own | shared


@dataclass
class Kills:
    """What a number of kills showed.

    Attributes:
        flaws: what went against the promise.
        in_requests: kills with a write unanswered.
        in_snapshots: kills that left a graph's file unfinished or off record.
        in_opening: kills before the first write.
        acknowledged: writes and deletions that were acknowledged, over all runs.
        deleted: deletions among them.
    """

    count: int = 0
    flaws: list[str] = field(default_factory=list)
    in_requests: int = 0
    in_snapshots: int = 0
    in_opening: int = 0
    acknowledged: int = 0
    deleted: int = 0


def kills(folder: Path, count: int, seed: int, *, encrypted: bool = False) -> Kills:
    """Kills the writers of one collection, which may be encrypted, `count` times."""
    key = writer.KEYRING.primary if encrypted else None
    Store.create(folder / FILE_NAME, CollectionSpec("things", writer.DIMENSION, Metric.EUCLIDEAN), key=key)
    rng = random.Random(seed)
    reported, shown = Reported(), Kills()
    for run in range(1, count + 1):
        # The first run is long, so that there is enough to lose whatever the others are.
        lines = MOST_LINES if run == 1 else rng.choice((1, rng.randint(2, MOST_LINES)))
        told = _killed_run(folder, run, seed, lines, rng)
        reported.read(told)
        shown.count += 1
        shown.in_opening += len(told) <= 1
        shown.in_requests += bool(reported.open)
        shown.in_snapshots += _unfinished(folder)
        shown.acknowledged += sum(line.startswith("done") for line in told)
        if what := _flaw(folder, reported, keep_log=run % 2 == 1):
            shown.flaws.append(f"seed {seed}, kill {run} after {len(told)} lines: {what}")
            break  # what comes after it would show the same again
    shown.deleted = reported.deleted
    return shown


def _killed_run(folder: Path, run: int, seed: int, count: int, rng: random.Random) -> list[str]:
    with child(writer.write, str(folder), run, seed) as process:
        return process.told_until_killed(count, pause=rng.uniform(0.0, 8.0))


def _unfinished(folder: Path) -> bool:
    store = Store(folder / FILE_NAME, keyring=writer.KEYRING)
    recorded = {record.file for record in store.snapshots()}
    store.close()
    return any(file.name not in recorded for file in folder.glob("graph-*"))


def _flaw(folder: Path, reported: Reported, *, keep_log: bool) -> str:
    try:
        collection = Collection(folder, writer.OPTIONS)
    except TwinsightError as error:
        return error.message
    try:
        return _compared(collection, reported)
    except TwinsightError as error:
        return error.message
    finally:
        # Every other time the next writers find what the killed ones left, not what a close has tidied.
        collection.close(snapshot=not keep_log)


def _compared(collection: Collection, reported: Reported) -> str:
    """Compares what is there with what was told, and settles what was open by what is there."""
    items: dict[str, Item] = {}
    after: str | None = ""
    while after is not None:
        page, after = collection.page(after=after, limit=1000, include_vectors=True)
        items.update({item.id: item for item in page})
    if len(items) != collection.status().item_count:
        return f"{len(items)} items can be read of {collection.status().item_count}"

    for thread, (kind, batch) in list(reported.open.items()):
        there = {name in items for name in writer.own_names(batch)}
        if len(there) != 1:
            return f"the {kind} of batch {batch} was done by half"
        reported.settle(thread, done=there == {kind == "upsert"})
    for thread, batch in reported.last.items():
        if (last := collection.last_batch(writer.ingest_of(thread))) != batch:
            return f"batch {last} of thread {thread} is on record, and batch {batch} is the last that is there"

    expected = reported.expected()
    return _differences(items, expected) or _searched(collection, expected)


def _differences(items: dict[str, Item], expected: dict[str, int]) -> str:
    if lost := expected.keys() - items.keys():
        return f"{len(lost)} acknowledged items are lost: {sorted(lost)[:5]}"
    if returned := items.keys() - expected.keys():
        return f"{len(returned)} deleted items are back: {sorted(returned)[:5]}"
    for name, batch in expected.items():
        item, vector = items[name], writer.vector_of(name, batch)
        if item.vector is None or (item.vector != vector).any() or item.metadata != writer.metadata_of(name, batch):
            return f"{name} is not as batch {batch} wrote it"
    return ""


def _searched(collection: Collection, expected: dict[str, int]) -> str:
    names = list(expected)[:: max(1, len(expected) // 100)]
    if not names:
        return ""
    queries = np.stack([writer.vector_of(name, expected[name]) for name in names])
    if [one[0].id for one in collection.search(queries, SearchOptions(1, exact=True))] != names:
        return "an exact search does not find what is there"
    # A walk as narrow as this one may miss a point, but finds nothing that is not there.
    walked = [one[0].id for one in collection.search(queries, SearchOptions(1))]
    if not set(walked) <= expected.keys():
        return "a search finds what is not there"
    if sum(map(operator.eq, walked, names)) < 0.95 * len(names):
        return "a search misses more than a walk may"
    return ""


def run(scale: Scale) -> Outcome:
    """Kills writers, of a new collection every 20 times; every other one is encrypted."""
    count, rng = scale.of(KILLS), random.Random(scale.seed)
    shown: list[Kills] = []
    for first in range(0, count, _KILLS_A_COLLECTION):
        with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder:
            kills_here, encrypted = min(_KILLS_A_COLLECTION, count - first), len(shown) % 2 == 1
            shown.append(kills(Path(folder), kills_here, rng.randrange(1 << 20), encrypted=encrypted))
    figures: dict[str, Figure] = {
        "acknowledged": sum(one.acknowledged for one in shown),
        "deletions": sum(one.deleted for one in shown),
        "in a write": sum(one.in_requests for one in shown),
        "in a snapshot": sum(one.in_snapshots for one in shown),
        "in opening": sum(one.in_opening for one in shown),
    }
    return Outcome(sum(one.count for one in shown), [flaw for one in shown for flaw in one.flaws], figures)


PROMISE = Promise(1, "kill", "0 acknowledged writes lost, 0 deletes undone, batches whole, in 200 kills", 6.0, run)
