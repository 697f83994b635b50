"""Promise 3: the disk is full at any write: a clean status, searches go on, and it recovers when there is room.

The scenario creates a collection, writes, deletes, takes a snapshot, closes, opens again and writes on. Its writes and
syncs are counted once; then it is run with the disk full from each of them on, and with each of them failing alone. A
call that fails must say so in the product's words and change nothing; what was there is read and found meanwhile; once
there is room, the same call succeeds. Where small file systems can be mounted, the same is done on real ones.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import apsw

from benchmarks.torture.history import History, searched_flaw, versions_of
from benchmarks.torture.interposed import Delete, Step, Sync, Truncate, interposed, io_error
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from benchmarks.torture.small_disk import SmallDisk, small_disk
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import StartupError, StorageFull, TwinsightError
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import GraphParameters, HnswIndex
from twinsight_core.items import CollectionSpec
from twinsight_core.search.index_policy import IndexPolicy

DIMENSION = 4
_NAME = "things"
_GRAPH = GraphParameters(links=4, build_width=20)
_POLICY = IndexPolicy(graph_from=60, patience=10, snapshot_share=0.05, audit_width=8)
_SMALL_BYTES, _LEFT_STEP_BYTES = 2 << 20, 16 << 10


class FullDisk:
    """A disk that is full from its `full_at`-th write or sync on, until there is `room`.

    Attributes:
        steps: writes and syncs so far, a graph's file counting as one.
        once: only that one fails.
    """

    def __init__(self, full_at: int | None, *, once: bool = False) -> None:
        self.steps = 0
        self.failed = 0
        self._full_at = full_at
        self._once = once
        self._room = False
        self._lock = threading.Lock()

    def room(self) -> None:
        """Makes room."""
        self._room = True

    def takes(self) -> bool:
        """Counts a write and returns whether the disk takes it."""
        with self._lock:
            self.steps += 1
            if self._room or self._full_at is None or self.steps < self._full_at:
                return True
            if self._once and self.steps > self._full_at:
                return True
            self.failed += 1
            return False

    def opened(self, file: Path, *, journal: bool) -> None:
        """As `Watcher`."""

    def before(self, step: Step) -> None:
        """As `Watcher`."""
        if isinstance(step, Truncate | Delete) or self.takes():
            return
        # A file system that gives out room late says so at the sync.
        raise io_error(apsw.SQLITE_IOERR_FSYNC) if isinstance(step, Sync) else apsw.FullError

    def save(self, index: HnswIndex, file: Path) -> int:
        """As `HnswIndex.save`, which reports success on a full disk."""
        size = _saved(index, file)
        if not self.takes():
            with file.open("r+b") as content:
                content.truncate(size // 2)
        return size


_saved = HnswIndex.save


@dataclass
class Worked:
    """What a run of the scenario showed.

    Attributes:
        flaws: what went against the promise.
        refused: calls that were refused, by reason.
    """

    flaws: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


class Scenario:
    """One run over a data folder, with a disk that can be given room."""

    def __init__(self, data_dir: Path, room: Callable[[], None], vfs: str | None) -> None:
        self._data_dir = data_dir
        self._room = room
        self._options = CollectionOptions(graph=_GRAPH, policy=_POLICY, ef=16, vfs=vfs)
        self._history = History(DIMENSION)
        self.worked = Worked()

    def run(self, seed: int) -> Worked:
        """Works to the end, whatever is refused on the way."""
        rng = random.Random(seed)
        for opening in range(2):
            catalog = self._opened()
            if not opening:
                self._try("create", None, partial(catalog.create, CollectionSpec(_NAME, DIMENSION, Metric.EUCLIDEAN)))
            self._work(self._collection(catalog), rng, 100 * opening)
            catalog.close()
        catalog = Catalog(self._data_dir, options=CollectionOptions(graph=_GRAPH, policy=_POLICY, ef=16))
        if what := self._history.flaw(self._collection(catalog)):
            self.worked.flaws.append(f"after opening again: {what}")
        catalog.close()
        return self.worked

    def _opened(self) -> Catalog:
        made: list[Catalog] = []
        self._try("open", None, lambda: made.append(Catalog(self._data_dir, options=self._options)))
        return made[0]

    @staticmethod
    def _collection(catalog: Catalog) -> Collection:
        return catalog.get(_NAME)

    def _work(self, collection: Collection, rng: random.Random, first: int) -> None:
        history = self._history
        for number in range(first + 1, first + 11):
            if history.known and rng.random() < 0.3:
                doomed = rng.sample(sorted(history.known), min(len(history.known), 5))
                self._try("delete", collection, partial(history.delete, collection, doomed))
            else:
                names = [f"i{rng.randrange(200)}" for _ in range(rng.randint(1, 30))]
                self._try("upsert", collection, partial(history.upsert, collection, names, number))
            collection.wait_indexed(10)

    def _try(self, what: str, collection: Collection | None, call: Callable[[], object]) -> None:
        """Calls; if that is refused, looks whether all is as before, makes room, and calls again."""
        try:
            call()
        except (StorageFull, StartupError) as error:
            self.worked.refused[error.reason] += 1
        except TwinsightError as error:
            self.worked.flaws.append(f"{what} was refused with {type(error).__name__}: {error.message}")
        else:
            return
        if collection is not None and (flaw := self._flaw_while_full(collection)):
            self.worked.flaws.append(f"after the refused {what}: {flaw}")
        self._room()
        call()

    def _flaw_while_full(self, collection: Collection) -> str:
        there = versions_of(collection, DIMENSION)
        if isinstance(there, str):
            return there
        if there != self._history.known:
            return "a refused write changed something"
        return searched_flaw(collection, there, DIMENSION)


def simulated(full_at: int | None, seed: int, *, once: bool = False) -> tuple[FullDisk, Worked]:
    """Runs the scenario on a simulated disk that is full at a write; None: never."""
    disk = FullDisk(full_at, once=once)

    def save(index: HnswIndex, file: Path) -> int:
        return disk.save(index, file)

    with (
        tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder,
        interposed(disk) as vfs,
        mock.patch.object(HnswIndex, "save", save),
    ):
        return disk, Scenario(Path(folder) / "data", disk.room, vfs).run(seed)


def on_small_disk(disk: SmallDisk, left: int, seed: int) -> Worked:
    """Runs the scenario on a real file system that is full but for `left` bytes."""
    disk.fill(left)
    return Scenario(disk.folder / "data", disk.make_room, None).run(seed)


def run(scale: Scale) -> Outcome:
    """Fills the disk at each write."""
    whole, worked = simulated(None, scale.seed)
    failures = [f"with room: {flaw}" for flaw in worked.flaws]
    refused: Counter[str] = Counter()
    cases = 0
    every = max(1, round(1 / scale.factor))
    for full_at in range(1, whole.steps + 1, every):
        for once in (False, True):
            _, worked = simulated(full_at, scale.seed, once=once)
            cases += 1
            refused += worked.refused
            failures += [f"{'failing once' if once else 'full'} at write {full_at}: {one}" for one in worked.flaws]
    figures: dict[str, Figure] = {"writes of the scenario": whole.steps}
    real = 0
    for left in range(0, _SMALL_BYTES // 2, _LEFT_STEP_BYTES * every):
        with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder, small_disk(Path(folder)) as disk:
            if disk is None:
                break
            real += 1
            worked = on_small_disk(disk, left, scale.seed)
            refused += worked.refused
            failures += [f"on a real disk with {left} bytes left: {flaw}" for flaw in worked.flaws]
    figures["on real file systems"] = real
    figures |= {f"refused with {reason}": count for reason, count in refused.items()}
    return Outcome(cases + real, failures, figures)


PROMISE = Promise(3, "disk-full", "a clean refusal at every write, and recovery", 10.0, run)
