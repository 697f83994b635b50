"""Clients on threads that add, search, delete and grow one collection at once, and write down what each was told.

A register is a group of items that are always written and deleted together; what is read of it is its version, and
`TORN` where its items differ. It is read by ids, by a filter, and by what walks of the graph happen to find of it. The
growers add and delete items of their own, so that the graph grows and is built anew under the clients.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

import numpy as np

from benchmarks.torture.linearizability import ABSENT, Kind
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.filters import Equals
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.items import CollectionSpec, Match, NewItem, SearchOptions
from twinsight_core.metadata import Metadata
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage.store import FILE_NAME, Store

TORN = -1
REGISTERS, MEMBERS = 12, 3
CLIENTS = 4
DIMENSION = 16
_GROWN_MOST, _GROWN_AT_ONCE = 6000, 64
_OPTIONS = CollectionOptions(
    graph=GraphParameters(links=8, build_width=40, threads=2),
    policy=IndexPolicy(graph_from=200, patience=200, snapshot_share=0.2, audit_width=8, audit_rest=1.0),
    ef=24,
)


def churn(lines: Connection, folder: str, history: str, seconds: float, seed: int) -> None:
    """Works for some seconds and writes the history; tells `growing`, then what is wrong at the end, or `well`.

    Args:
        lines: takes what is told.
        folder: for the collection.
        history: folder for each client's history; a line is `REGISTER KIND VERSION CALLED ANSWERED`.
        seconds: how long.
        seed: chooses what is done.
    """
    Store.create(Path(folder) / FILE_NAME, CollectionSpec("churned", DIMENSION, Metric.EUCLIDEAN))
    collection = Collection(Path(folder), _OPTIONS)
    lines.send_bytes(b"growing")
    end = time.monotonic() + seconds
    failures: list[str] = []
    with ExitStack() as files:
        grower = Grower(collection, random.Random(seed))
        clients = [
            # A file each, since several threads can't write to one.
            Client(
                collection, random.Random(1000 * seed + n), n, files.enter_context((Path(history) / f"{n}").open("w"))
            )
            for n in range(CLIENTS)
        ]
        works = [grower.work, *(one.work for one in clients)]
        threads = [threading.Thread(target=_until, args=(end, work, failures)) for work in works]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    if not failures and (what := grower.flaw()):
        failures.append(what)
    collection.close()
    if not failures:
        # All that was seen is on disk, too.
        collection = Collection(Path(folder), _OPTIONS)
        grower.collection = collection
        if what := grower.flaw():
            failures.append(f"opened again: {what}")
        collection.close()
    lines.send_bytes((failures[0] if failures else "well").encode())


def _until(end: float, work: Callable[[], None], failures: list[str]) -> None:
    try:
        while time.monotonic() < end and not failures:
            work()
    except Exception as error:  # noqa: BLE001 - any error breaks the promise, and is told
        failures.append(f"{type(error).__name__}: {error}")


class Client:
    """Writes, deletes and reads registers, and notes what it was told."""

    def __init__(self, collection: Collection, rng: random.Random, number: int, history: TextIO) -> None:
        self._collection = collection
        self._rng = rng
        self._history = history
        self._version = number  # versions of all clients differ
        self._works: dict[Callable[[int], None], int] = {
            self._put: 4,
            self._delete: 1,
            self._delete_where: 1,
            self._get: 4,
            self._filter: 4,
            self._walk: 4,
        }

    def work(self) -> None:
        """Does one thing to one register."""
        (work,) = self._rng.choices(list(self._works), list(self._works.values()))
        work(self._rng.randrange(REGISTERS))

    def _put(self, register: int) -> None:
        self._version += CLIENTS
        items = [
            NewItem(name, near(register, self._rng), {"register": register, "version": self._version})
            for name in members(register)
        ]
        called = time.perf_counter_ns()
        self._collection.upsert(items)
        self._note(register, Kind.PUT, self._version, called)

    def _delete(self, register: int) -> None:
        called = time.perf_counter_ns()
        there = self._collection.delete(members(register))
        self._note(register, Kind.DELETE, _agreed([int(one) for one in there]), called)

    def _delete_where(self, register: int) -> None:
        called = time.perf_counter_ns()
        count = self._collection.delete_where(Equals("register", register))
        self._note(register, Kind.DELETE, {0: ABSENT, MEMBERS: 1}.get(count, TORN), called)

    def _get(self, register: int) -> None:
        called = time.perf_counter_ns()
        items = self._collection.get(members(register))
        self._note(
            register, Kind.READ, _agreed([version_of(None if one is None else one.metadata) for one in items]), called
        )

    def _filter(self, register: int) -> None:
        options = SearchOptions(MEMBERS + 1, filter=Equals("register", register), include_metadata=True)
        called = time.perf_counter_ns()
        (found,) = self._collection.search(near(register, self._rng)[None], options)
        versions = [version_of(one.metadata) for one in found]
        complete = len({one.id for one in found}) == len(found) in {0, MEMBERS}
        self._note(register, Kind.READ, _agreed(versions or [ABSENT]) if complete else TORN, called)

    def _walk(self, register: int) -> None:
        called = time.perf_counter_ns()
        (found,) = self._collection.search(near(register, self._rng)[None], SearchOptions(12, include_metadata=True))
        # A walk may miss an item, but what it finds is there.
        by_register: dict[int, list[Match]] = {}
        for one in found:
            if one.metadata is not None and isinstance(number := one.metadata.get("register"), int):
                by_register.setdefault(number, []).append(one)
        for number, matches in by_register.items():
            self._note(number, Kind.READ, _agreed([version_of(one.metadata) for one in matches]), called)

    def _note(self, register: int, kind: Kind, version: int, called: int) -> None:
        answered = time.perf_counter_ns()
        self._history.write(f"{register} {kind} {version} {called} {answered}\n")


class Grower:
    """Adds items of its own, a batch at a time, until they are many, and deletes a half; checks what it finds of them.

    Attributes:
        collection: where.
    """

    def __init__(self, collection: Collection, rng: random.Random) -> None:
        self.collection = collection
        self._rng = rng
        self._grown: dict[str, np.ndarray] = {}
        self._count = 0

    def work(self) -> None:
        """Adds, or deletes a half, and looks for what was added."""
        if len(self._grown) >= _GROWN_MOST:
            doomed = self._rng.sample(sorted(self._grown), len(self._grown) // 2)
            there = self.collection.delete(doomed)
            if not all(there):
                raise AssertionError(f"{there.count(False)} of its own items were gone before they were deleted")
            for name in doomed:
                del self._grown[name]
        vectors = np.random.default_rng(self._rng.randrange(1 << 30)).normal(size=(_GROWN_AT_ONCE, DIMENSION))
        batch = {f"g{self._count + n}": vector for n, vector in enumerate(vectors.astype(np.float32))}
        self._count += len(batch)
        self.collection.upsert([NewItem(name, vector) for name, vector in batch.items()])
        self._grown |= batch
        names = self._rng.sample(sorted(self._grown), 4)
        found = self.collection.search(np.stack([self._grown[name] for name in names]), SearchOptions(1, exact=True))
        if [one[0].id for one in found] != names:
            raise AssertionError("an item that was added does not find itself")

    def flaw(self) -> str:
        """Returns what is wrong with its items, when all is quiet; empty: nothing is."""
        if not self.collection.wait_indexed(120):
            return "the graph does not catch up"
        names = sorted(self._grown)
        queries = np.stack([self._grown[name] for name in names])
        for exact, most in ((True, 0), (False, len(names) // 500)):  # a narrow walk misses one in a thousand
            found = self.collection.search(queries, SearchOptions(1, exact=exact))
            lost = sum([one.id for one in matches] != [name] for name, matches in zip(names, found, strict=True))
            if lost > most:
                return f"{lost} of {len(names)} items do not find themselves (exact: {exact})"
        return ""


def members(register: int) -> list[str]:
    """Returns the ids of a register's items."""
    return [f"r{register}-{n}" for n in range(MEMBERS)]


def near(register: int, rng: random.Random) -> np.ndarray:
    """Returns a vector near those of a register's items, `[dimension] float32`."""
    base = np.random.default_rng(register).normal(size=DIMENSION)
    return (base + 0.01 * np.random.default_rng(rng.randrange(1 << 30)).normal(size=DIMENSION)).astype(np.float32)


def version_of(metadata: Metadata | None) -> int:
    """Returns the version that metadata tells; ABSENT where there is none."""
    version = ABSENT if metadata is None else metadata["version"]
    return version if isinstance(version, int) else TORN


def _agreed(versions: Sequence[int]) -> int:
    return versions[0] if len(set(versions)) == 1 else TORN
