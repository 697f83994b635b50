"""Readers and writers at once, on as many threads as there like to be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.collections.writer import Delete, DeleteWhere, Plan, Upsert
from twinsight_core.errors import Unavailable
from twinsight_core.filters import Equals
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.items import CollectionSpec, Match, NewItem, SearchOptions
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage.records import Changes
from twinsight_core.storage.store import FILE_NAME, Store

T = TypeVar("T")

DIMENSION = 16
OPTIONS = CollectionOptions(
    graph=GraphParameters(threads=2),
    policy=IndexPolicy(graph_from=200, patience=100, snapshot_share=0.2, audit_width=8),
    ef=24,
)


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    (tmp_path / "busy").mkdir()
    Store.create(tmp_path / "busy" / FILE_NAME, CollectionSpec("busy", DIMENSION, Metric.EUCLIDEAN))
    made = Collection(tmp_path / "busy", OPTIONS)
    yield made
    made.close()


def _vectors(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


def _together(*works: Callable[[], None]) -> None:
    """Runs works on threads of their own and raises the first error of any."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_every_writer_finds_what_it_wrote_at_once(collection: Collection) -> None:
    def work(number: int) -> None:
        for step, vector in enumerate(_vectors(number, 150)):
            name = f"{number}-{step}"
            collection.upsert([NewItem(name, vector, {"thread": number})])
            options = SearchOptions(1, Equals("thread", number) if step % 3 == 0 else None)
            assert collection.search(vector[None], options)[0][0].id == name
            if step % 5 == 0:
                assert collection.delete([name]) == [True]
                assert name not in [match.id for match in collection.search(vector[None], SearchOptions(3))[0]]
            else:
                assert collection.get([name])[0] is not None

    _together(*(partial(work, number) for number in range(6)))
    assert collection.status().item_count == 6 * 120


def test_an_item_that_is_replaced_all_the_time_is_always_found_once(collection: Collection) -> None:
    collection.upsert([NewItem(f"i{i}", vector) for i, vector in enumerate(_vectors(0, 1500))])
    place = np.full(DIMENSION, 0.5, np.float32)  # in the midst of the others, none of which is so near
    collection.upsert([NewItem("moving", place)])
    done = threading.Event()

    def write() -> None:
        try:
            for step, noise in enumerate(_vectors(1, 400)):
                collection.upsert([NewItem("moving", place + noise / 100), NewItem(f"x{step}", noise)])
        finally:
            done.set()

    def read() -> None:
        while not done.is_set():
            found = collection.search(place[None], SearchOptions(5))[0]
            assert [match.id for match in found].count("moving") == 1
            assert found[0].id == "moving"

    _together(write, read, read)


def test_batches_are_seen_whole_or_not_at_all(collection: Collection) -> None:
    vectors = _vectors(2, 10)
    done = threading.Event()

    def write() -> None:
        try:
            for batch in range(150):
                collection.upsert([NewItem(f"i{i}", vectors[i], {"batch": batch}) for i in range(10)])
        finally:
            done.set()

    def read() -> None:
        while not done.is_set():
            items = collection.get([f"i{i}" for i in range(10)])
            assert len({None if item is None else item.metadata["batch"] for item in items}) == 1
            found = collection.search(vectors[:1], SearchOptions(50))[0]
            assert len(found) in {0, 10}
            named = collection.search(vectors[:1], SearchOptions(50, include_metadata=True))[0]
            assert len({match.metadata["batch"] for match in named if match.metadata}) <= 1

    _together(write, read, read)


def test_adding_deleting_and_searching_at_once(collection: Collection) -> None:
    done = threading.Event()
    writers = 2
    finished: list[int] = []

    def write(number: int) -> None:
        try:
            for step in range(20):
                vectors = _vectors(100 * number + step, 60)
                collection.upsert([NewItem(f"{number}-{i}", one, {"step": step}) for i, one in enumerate(vectors)])
                assert collection.delete([f"{number}-{i}" for i in range(0, 60, 3)]) == [True] * 20
        finally:
            finished.append(number)
            if len(finished) == writers:
                done.set()

    def read(seed: int) -> None:
        queries = _vectors(seed, 8)
        while not done.is_set():
            for matches in collection.search(queries, SearchOptions(10, include_metadata=seed % 2 == 0)):
                assert len({match.id for match in matches}) == len(matches)
                assert [match.score for match in matches] == sorted((one.score for one in matches), reverse=True)

    _together(*(partial(write, number) for number in range(writers)), partial(read, 8), partial(read, 9))
    assert collection.status().item_count == writers * 40
    assert collection.wait_indexed(60)


def test_closing_answers_every_write_that_was_handed_in(collection: Collection, tmp_path: Path) -> None:
    acknowledged: list[str] = []
    enough = threading.Event()

    def write(number: int) -> None:
        try:
            for step, vector in enumerate(_vectors(number, 1000)):
                collection.upsert([NewItem(f"{number}-{step}", vector)])
                acknowledged.append(f"{number}-{step}")
                if len(acknowledged) >= 40:
                    enough.set()
        except Unavailable:
            return
        finally:
            enough.set()

    def close() -> None:
        enough.wait()
        collection.close()

    _together(*(partial(write, number) for number in range(3)), close)
    again = Collection(tmp_path / "busy", OPTIONS)
    assert None not in again.get(acknowledged)
    again.close()


@pytest.fixture
def between(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Between]:
    """The collection, whose writes stop between disk and memory until they are let go on."""
    committed, let_go = threading.Event(), threading.Event()
    commit = Store.commit

    def stopping(self: Store, changes: Changes) -> None:
        commit(self, changes)
        committed.set()
        assert let_go.wait(30)

    monkeypatch.setattr(Store, "commit", stopping)
    yield Between(collection, committed, let_go)
    let_go.set()


class Between:
    def __init__(self, collection: Collection, committed: threading.Event, let_go: threading.Event) -> None:
        self._collection = collection
        self._committed = committed
        self._let_go = let_go

    def read(self, item: NewItem, read: Callable[[], T]) -> T:
        """Writes an item and reads; memory takes the write when the reader waits for it, or has answered without."""
        lock, pause = self._collection._writer._writing, threading.Event()
        with ThreadPoolExecutor(2) as pool:
            written = pool.submit(self._collection.upsert, [item])
            assert self._committed.wait(30)
            answer = pool.submit(read)
            while not answer.done() and not lock._waiting_readers:
                pause.wait(0.005)
            self._let_go.set()
            written.result(30)
            return answer.result(30)


@pytest.mark.parametrize(("with_vectors", "version"), [(True, 2), (False, 1)])
def test_an_item_that_is_being_rewritten_is_found_with_its_contents(
    collection: Collection, request: pytest.FixtureRequest, with_vectors: bool, version: int
) -> None:
    """Metadata is in memory beside what is searched; the disk has the vector as it was written no more."""
    vector = np.ones(DIMENSION, np.float32)
    collection.upsert([NewItem("a", vector, {"version": 1})])
    between: Between = request.getfixturevalue("between")
    found = between.read(
        NewItem("a", vector, {"version": 2}),
        lambda: collection.search(vector[None], SearchOptions(1, include_metadata=True, include_vectors=with_vectors)),
    )
    assert [(one.id, one.metadata) for one in found[0]] == [("a", {"version": version})]


def test_an_item_that_is_being_rewritten_is_on_the_page_of_a_filter(
    collection: Collection, request: pytest.FixtureRequest
) -> None:
    vector = np.ones(DIMENSION, np.float32)
    collection.upsert([NewItem("a", vector, {"kind": "x", "version": 1})])
    between: Between = request.getfixturevalue("between")
    page, _ = between.read(
        NewItem("a", vector, {"kind": "x", "version": 2}),
        lambda: collection.page(after="", limit=10, filter=Equals("kind", "x")),
    )
    assert [one.metadata["version"] for one in page] == [2]


@pytest.mark.parametrize("listed", [False, True])
def test_what_was_read_by_id_or_listed_is_found_by_every_later_search(
    collection: Collection, between: Between, listed: bool
) -> None:
    vector = np.ones(DIMENSION, np.float32)

    def read() -> tuple[list[str], list[list[Match]]]:
        items = collection.page(after="", limit=10)[0] if listed else collection.get(["a"])
        return [one.id for one in items if one], collection.search(vector[None], SearchOptions(1))

    items, found = between.read(NewItem("a", vector), read)
    assert items == ["a"]
    assert [one.id for one in found[0]] == ["a"]


def test_an_error_after_some_of_a_group_were_answered_ends_no_thread(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: object) -> None:
        raise MemoryError

    writer = collection._writer
    assert writer._thread is None
    write, purge = Upsert([NewItem("1", _vectors(1, 1)[0])], None), Delete(["nobody"], purge=True)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_purge", failing)
        patch.setattr(writer, "_next_group", iter([[write, purge], None]).__next__)
        writer._run()
    assert write.answer.result() == [True]
    with pytest.raises(MemoryError):
        purge.answer.result()
    assert collection.upsert([NewItem("2", _vectors(2, 1)[0])]) == [True]


def test_what_fails_after_a_write_is_in_memory_leaves_memory_and_disk_agreed(collection: Collection) -> None:
    class Full(list[bool]):
        def extend(self, _: object) -> None:
            raise MemoryError

    collection.upsert([NewItem(str(number), vector) for number, vector in enumerate(_vectors(0, 4))])
    with pytest.raises(MemoryError):
        collection._writer.submit(Delete(["0", "1"], deleted=Full()))
    assert collection.get(["0", "2"])[0] is None
    assert collection.status().item_count == 2
    assert collection.upsert([NewItem("4", _vectors(1, 1)[0])]) == [True]
    assert collection.status().item_count == 3


def test_writes_that_nobody_wants_any_more_are_not_done_unless_they_have_begun(collection: Collection) -> None:
    class Gone(Exception):
        """Nobody waits."""

    under_way, gone = threading.Event(), threading.Event()

    def write(name: str) -> list[bool]:
        def check() -> None:
            if gone.is_set():
                raise Gone

        return collection.upsert([NewItem(name, _vectors(0, 1)[0])], check_wanted=check)

    def delete() -> list[bool]:
        def check() -> None:
            raise Gone

        return collection.delete(["kept"], check_wanted=check)

    collection.upsert([NewItem("kept", _vectors(1, 1)[0])])
    planned = collection._writer._planned

    def noting(plan: Plan, request: Upsert | Delete | DeleteWhere) -> list[bool]:
        under_way.set()
        return planned(plan, request)

    collection._writer._planned = noting  # type: ignore[method-assign]
    with ThreadPoolExecutor(3) as threads:
        with collection._writer.settled():  # the next write waits, as it does for a purge
            first = threads.submit(write, "begun")
            assert under_way.wait(20)
            behind, deletion = threads.submit(write, "behind"), threads.submit(delete)
            gone.set()
            for one in (behind, deletion):
                with pytest.raises(Gone):
                    one.result(20)
            assert not first.done()
        assert first.result(20) == [True]
    assert collection.upsert([NewItem("last", _vectors(2, 1)[0])]) == [True]
    assert [item is not None for item in collection.get(["begun", "behind", "kept", "last"])] == [
        True,
        False,
        True,
        True,
    ]


def test_a_purge_that_lasts_keeps_no_collection_from_being_closed(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.upsert([NewItem(f"item-{n}", vector, {}) for n, vector in enumerate(_vectors(0, 300))])
    assert collection.wait_indexed(60)
    indexer, go, erase = collection._indexer, threading.Event(), Store.erase

    def lasting(store: Store) -> None:
        with store._writing:
            assert go.wait(60)
        erase(store)

    monkeypatch.setattr(Store, "erase", lasting)
    with ThreadPoolExecutor(1) as pool:
        purge = pool.submit(collection.delete, ["item-7"], purge=True)
        while not indexer._saving.locked():  # a graph without the item waits to be put on record
            assert not purge.done()
            time.sleep(0.001)
        assert not collection.close(until=time.monotonic())
        assert not purge.done()
        with pytest.raises(Unavailable):
            collection.upsert([NewItem("late", _vectors(1, 1)[0], {})])
        go.set()
        assert purge.result(60) == [True], "it may well end before the process does"
    assert collection.close()
    assert collection.close()
