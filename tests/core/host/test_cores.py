from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections import writer
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.host import cores
from twinsight_core.host.cores import keep_to, keeping_to, on_all_cores, one_core, usable_cores, use_all_cores
from twinsight_core.index.exact import ExactView, Found
from twinsight_core.index.hnsw import GraphReader
from twinsight_core.items import CollectionSpec, NewItem, SearchOptions
from twinsight_core.search import indexer
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage.store import FILE_NAME, Store

pytestmark = pytest.mark.skipif(
    not cores.CAN_CHOOSE or len(usable_cores()) < 2, reason="threads have no choice of cores here"
)


def mine() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0))


def in_a_thread(work: Callable[[], None]) -> None:
    """Leaves this thread's cores as they are."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()


def test_a_thread_and_what_it_starts_keep_to_a_core_until_they_are_let_go() -> None:
    seen: list[frozenset[int]] = []

    def let_go() -> None:
        use_all_cores()
        seen.append(mine())

    def work() -> None:
        keep_to(one_core())
        seen.append(mine())
        in_a_thread(lambda: seen.append(mine()))
        in_a_thread(let_go)
        use_all_cores()
        seen.append(mine())

    in_a_thread(work)
    assert seen == [one_core(), one_core(), usable_cores(), usable_cores()]
    assert len(one_core()) == 1
    assert one_core() < usable_cores()
    assert mine() == usable_cores()


def test_a_block_keeps_to_a_core_and_one_within_it_has_all() -> None:
    def work() -> None:
        with keeping_to(one_core()):
            with on_all_cores():
                assert mine() == usable_cores()
            assert mine() == one_core()
            with keeping_to(usable_cores()):
                assert mine() == usable_cores()
            assert mine() == one_core()
            with pytest.raises(ZeroDivisionError), on_all_cores():
                raise ZeroDivisionError
            assert mine() == one_core()
        assert mine() == usable_cores()

    in_a_thread(work)


def test_a_thread_that_keeps_to_no_core_is_left_where_it_is() -> None:
    def work() -> None:
        os.sched_setaffinity(0, one_core())  # by somebody else
        with on_all_cores():
            assert mine() == one_core()
        assert mine() == one_core()

    in_a_thread(work)


def test_cores_that_are_gone_are_not_kept_to() -> None:
    def work() -> None:
        keep_to(frozenset({1 << 16}))
        assert mine() == usable_cores()
        with on_all_cores():
            assert mine() == usable_cores()

    in_a_thread(work)


def test_where_threads_have_no_choice_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "CAN_CHOOSE", False)

    def work() -> None:
        keep_to(one_core())
        with on_all_cores():
            assert mine() == usable_cores()
        use_all_cores()
        assert mine() == usable_cores()

    in_a_thread(work)


@pytest.fixture
def collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    """5,000 x 64 in a graph; opened by a thread that keeps to one core. Its threads stay."""
    for module in (writer, indexer):
        monkeypatch.setattr(module, "LINGER_S", 60.0)
    Store.create(tmp_path / FILE_NAME, CollectionSpec(id="one", dimension=64))
    made: list[Collection] = []

    def work() -> None:
        keep_to(one_core())
        made.append(Collection(tmp_path, CollectionOptions(policy=IndexPolicy(graph_from=1000))))

    in_a_thread(work)
    (collection,) = made
    vectors = np.random.default_rng(1).normal(size=(5000, 64)).astype(np.float32)
    collection.upsert([NewItem(str(n), one) for n, one in enumerate(vectors)])
    assert collection.wait_indexed(60)
    return collection


def test_what_a_kept_thread_starts_in_a_collection_has_all_cores(collection: Collection) -> None:
    found = {
        thread.name: frozenset(os.sched_getaffinity(thread.native_id or 0))
        for thread in threading.enumerate()
        if thread.name.startswith("twinsight-")
    }
    collection.close()
    assert {"twinsight-index-one", "twinsight-write-one"} <= set(found)
    assert set(found.values()) == {usable_cores()}


@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        (1, SearchOptions(top_k=3), one_core()),
        (5, SearchOptions(top_k=3), one_core()),
        (6, SearchOptions(top_k=3), usable_cores()),
        (13, SearchOptions(top_k=3, ef=32), one_core()),
        (14, SearchOptions(top_k=3, ef=32), usable_cores()),
        (4, SearchOptions(top_k=3, ef=150), usable_cores()),
        (1, SearchOptions(top_k=3, exact=True), one_core()),
        (64, SearchOptions(top_k=3, exact=True), usable_cores()),
    ],
)
def test_a_long_search_of_a_kept_thread_has_all_cores(
    collection: Collection,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    options: SearchOptions,
    expected: frozenset[int],
) -> None:
    seen: list[frozenset[int]] = []
    walk, scan = GraphReader.search, ExactView.nearest

    def walked(self: GraphReader, queries: np.ndarray, width: int) -> np.ndarray:
        seen.append(mine())
        return walk(self, queries, width)

    def scanned(self: ExactView, queries: np.ndarray, k: int, **how: np.ndarray) -> list[Found]:
        seen.append(mine())
        return scan(self, queries, k, **how)

    monkeypatch.setattr(GraphReader, "search", walked)
    monkeypatch.setattr(ExactView, "nearest", scanned)
    queries = np.random.default_rng(2).normal(size=(count, 64)).astype(np.float32)

    def work() -> None:
        keep_to(one_core())
        collection.search(queries, options)
        assert mine() == one_core()

    in_a_thread(work)
    collection.close()
    assert seen == [expected]
