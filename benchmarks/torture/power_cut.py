"""Promise 2: the power goes at any moment, and nothing that was acknowledged is lost.

A catalog lives on a `VolatileDisk`: collections are created and deleted, items written and deleted, snapshots taken,
the log folded into its file, all closed and opened again. Before one step of it the power goes; a new catalog opens
what the disk kept. The controls do the same with `synchronous=OFF`, and with snapshots that are not synced, and must
both be seen to break something: else the cuts would show nothing.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from unittest import mock

import apsw

from benchmarks.torture.history import History
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from benchmarks.torture.volatile_disk import VolatileDisk, write_image
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import TwinsightError
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.items import CollectionSpec
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage import snapshots, sqlite, store
from twinsight_core.storage.store import FILE_NAME, Store

CUTS, CONTROL_CUTS = 200, 40
DIMENSION = 4
# So few that graphs and snapshots come and go all the time.
_GRAPH = GraphParameters(links=4, build_width=20)
_POLICY = IndexPolicy(graph_from=60, patience=10, snapshot_share=0.05, audit_width=8)
_STEPS = 24
_CUTS_A_SCENARIO = 10
_LOG_PAGES = 30  # after which SQLite folds the log into its file


@dataclass
class Told:
    """What was acknowledged before the cut.

    Attributes:
        histories: by collection that was created and not deleted.
        maybe: the collection whose creation or deletion was not answered.
        gone: collections whose deletion was acknowledged.
        finished: nothing was cut.
    """

    histories: dict[str, History] = field(default_factory=dict)
    maybe: str = ""
    gone: set[str] = field(default_factory=set)
    finished: bool = False


def scenario(data_dir: Path, options: CollectionOptions, seed: int) -> Told:
    """Works until all is done or something fails, and returns what was acknowledged."""
    told = Told()
    with suppress(TwinsightError, OSError):
        for opening in range(2):
            catalog = Catalog(data_dir, options=options)
            try:
                _work(catalog, told, random.Random(seed + opening), 1000 * opening)
            finally:
                catalog.close()
        told.finished = True
    return told


def _work(catalog: Catalog, told: Told, rng: random.Random, first: int) -> None:
    for number in range(first + 1, first + 1 + _STEPS):
        if number % 1000 == 1:
            _create(catalog, told, f"kept{number}")
            _create(catalog, told, f"gone{number}")
        if number % 1000 == _STEPS // 2:
            name = next(name for name in told.histories if name.startswith("gone"))
            history, told.maybe = told.histories.pop(name), name
            history.writes += 1
            catalog.delete(name)
            told.maybe = ""
            told.gone.add(name)
        name = rng.choice(sorted(told.histories))
        collection, history = catalog.get(name), told.histories[name]
        if history.known and rng.random() < 0.3:
            history.delete(collection, rng.sample(sorted(history.known), min(len(history.known), rng.randint(1, 8))))
        else:
            history.upsert(collection, [f"i{rng.randrange(200)}" for _ in range(rng.randint(1, 40))], number)
        if rng.random() < 0.3:
            collection.wait_indexed(10)


def _create(catalog: Catalog, told: Told, name: str) -> None:
    told.maybe = name
    catalog.create(CollectionSpec(name, DIMENSION, Metric.EUCLIDEAN))
    told.maybe = ""
    told.histories[name] = History(DIMENSION)


class Without(StrEnum):
    """What a control leaves out."""

    NOTHING = "nothing"
    STORE_SYNCS = "syncs of the store"
    SNAPSHOT_SYNCS = "syncs of snapshots"


def cut(
    seed: int, cut_at: int | None, folder: Path, *, without: Without = Without.NOTHING
) -> tuple[VolatileDisk, Told]:
    """Runs the scenario on a volatile disk whose power goes before one step; None: it never goes."""
    root = folder / "disk"
    root.mkdir()
    disk = VolatileDisk(root, cut_at=cut_at, seed=seed)
    with disk.mounted() as vfs, _leaving_out(without):
        options = CollectionOptions(graph=_GRAPH, policy=_POLICY, ef=16, vfs=vfs)
        told = scenario(root / "data", options, seed)
    return disk, told


@contextmanager
def _leaving_out(without: Without) -> Iterator[None]:
    """Makes connections fold their log early, and leaves out what a control does."""

    def connect(file: Path, flags: int, vfs: str | None) -> apsw.Connection:
        connection = sqlite.connect(file, flags, vfs)
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        if without is Without.STORE_SYNCS:
            connection.execute("PRAGMA synchronous = OFF")
        return connection

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(store, "connect", connect))
        if without is Without.SNAPSHOT_SYNCS:
            patches.enter_context(mock.patch.object(snapshots, "sync_file", return_value=None))
        yield


def flaw(disk: VolatileDisk, told: Told, folder: Path) -> str:
    """Opens what a cut left, and returns what contradicts what was told; empty: nothing does."""
    if disk.image is None:
        return "" if told.finished else "the scenario failed without a cut"
    for name in ("left", "looked-at"):
        write_image(disk.image, folder / name)
    try:
        # Apart, since opening a store puts its log in order.
        return _unsound_snapshots(folder / "looked-at/data") or _flaw_when_opened(folder / "left/data", told)
    except TwinsightError as error:
        return error.message


def _flaw_when_opened(data_dir: Path, told: Told) -> str:
    catalog = Catalog(data_dir, options=CollectionOptions(graph=_GRAPH, policy=_POLICY, ef=16))
    try:
        return _flaw_of(catalog, told)
    finally:
        catalog.close()


def _flaw_of(catalog: Catalog, told: Told) -> str:
    there = dict(catalog.list())
    if missing := told.histories.keys() - there.keys():
        return f"collections {sorted(missing)} are lost"
    if returned := told.gone & there.keys():
        return f"deleted collections {sorted(returned)} are back"
    if strange := there.keys() - told.histories.keys() - {told.maybe}:
        return f"nobody created {sorted(strange)}"
    for name, collection in there.items():
        if not isinstance(collection, Collection):
            return f"{name}: {collection.message}"
        history = told.histories.get(name, History(DIMENSION))
        if name == told.maybe:
            continue  # created or deleted by half as far as its client knows; that it opens is all
        if what := history.flaw(collection):
            return f"{name}: {what}"
        history.upsert(collection, ["after"], 1_000_000)  # it goes on
    return ""


def _unsound_snapshots(data_dir: Path) -> str:
    """Returns which file on record is missing or other than recorded: each was synced before it went on record."""
    for folder in sorted((data_dir / "collections").glob("[!.]*")):
        opened = Store(folder / FILE_NAME)
        try:
            for record in opened.snapshots():
                file = folder / record.file
                digest = hashlib.sha256(file.read_bytes() + record.outside).hexdigest() if file.exists() else "missing"
                if digest != record.sha256:
                    return f"{folder.name}: the file of snapshot {record.file} is not what is on record"
        finally:
            opened.close()
    return ""


def cases(count: int, seed: int, *, without: Without = Without.NOTHING) -> tuple[list[str], dict[str, Figure]]:
    """Cuts the power `count` times; returns what broke, and figures.

    Each scenario is run whole first, so that the cuts are spread over all its steps.
    """
    rng = random.Random(seed)
    failures: list[str] = []
    cut_before: Counter[str] = Counter()
    writes = 0
    while cut_before.total() < count:
        scenario_seed = rng.randrange(1 << 30)
        with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder:
            whole, told = cut(scenario_seed, None, Path(folder), without=without)
        if not told.finished:
            failures.append(f"scenario {scenario_seed} failed without a cut")
            break
        for _ in range(min(_CUTS_A_SCENARIO, count - cut_before.total())):
            cut_at = rng.randint(1, whole.steps)
            with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder:
                disk, told = cut(scenario_seed, cut_at, Path(folder), without=without)
                if disk.image is None:
                    continue  # the indexer's share of the steps differs from run to run
                cut_before[disk.last_step.split()[0]] += 1
                writes += sum(history.writes for history in told.histories.values())
                if what := flaw(disk, told, Path(folder)):
                    failures.append(f"scenario {scenario_seed}, cut before step {cut_at} ({disk.last_step}): {what}")
    figures: dict[str, Figure] = {"acknowledged writes": writes}
    figures |= {f"before {kind}": number for kind, number in cut_before.items()}
    return failures, figures


def run(scale: Scale) -> Outcome:
    """Cuts the power again and again; then without syncs, which must lose something."""
    count, control = scale.of(CUTS), scale.of(CONTROL_CUTS, at_least=8)
    failures, figures = cases(count, scale.seed)
    for without in (Without.STORE_SYNCS, Without.SNAPSHOT_SYNCS):
        broken, _ = cases(control, scale.seed, without=without)
        figures[f"broken of {control} without {without}"] = len(broken)
        if not broken:
            failures.append(f"nothing broke in {control} cuts without {without}: the cuts show nothing")
    return Outcome(count, failures, figures)


PROMISE = Promise(2, "power-cut", "0 of 200 cuts lose anything; without syncs some do", 20.0, run)
