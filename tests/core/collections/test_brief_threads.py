"""A collection has threads while there is something to do, and gets them anew when there is again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections import writer
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import Unavailable
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.items import CollectionSpec, NewItem, SearchOptions
from twinsight_core.search import indexer
from twinsight_core.search.index_policy import IndexPolicy

OPTIONS = CollectionOptions(graph=GraphParameters(threads=1), policy=IndexPolicy(graph_from=8, patience=4))


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = Catalog(tmp_path / "data", options=OPTIONS)
    yield made
    made.close()


@pytest.fixture
def collection(catalog: Catalog) -> Collection:
    return catalog.create(CollectionSpec("mine", 4, Metric.EUCLIDEAN))


def items(first: int, count: int) -> list[NewItem]:
    vectors = np.random.default_rng(first).normal(size=(count, 4)).astype(np.float32)
    return [NewItem(str(first + number), vector) for number, vector in enumerate(vectors)]


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith(("twinsight-write-", "twinsight-index-"))]


def without(monkeypatch: pytest.MonkeyPatch, begins: str) -> None:
    """Has threads of such names fail to start."""
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith(begins):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def linger(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for module in (writer, indexer):
        monkeypatch.setattr(module, "LINGER_S", seconds)


def test_collections_at_rest_have_no_threads(
    catalog: Catalog, collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linger(monkeypatch, 0.01)
    catalog.create(CollectionSpec("empty", 4, Metric.EUCLIDEAN))
    assert threads() == []
    collection.upsert(items(0, 40))
    assert threads()
    assert collection.wait_indexed(60)
    until(lambda: threads() == [])
    assert collection.status().indexed_count == 40
    catalog.close()
    again = Catalog(tmp_path / "data", options=OPTIONS)
    until(lambda: threads() == [])
    found = again.get("mine")
    assert found.status().indexed_count == 40
    found.upsert(items(40, 40))
    assert found.wait_indexed(60)
    assert found.status().indexed_count == 80
    again.close()
    assert threads() == []


def test_no_write_is_lost_to_a_thread_that_is_about_to_end(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    linger(monkeypatch, 0.002)
    random = np.random.default_rng(0)

    def write(first: int) -> None:
        for number in range(first, first + 200):
            assert collection.upsert(items(number, 1)) == [True]
            time.sleep(random.uniform(0, 0.004))

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 1000)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(120)
    assert collection.wait_indexed(60)
    assert collection.status().indexed_count == collection.status().item_count == 400


def test_a_write_for_which_no_thread_can_be_started_is_refused_whole(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        without(short, "twinsight-")
        with pytest.raises(Unavailable, match="No more threads can be started") as refused:
            collection.upsert(items(0, 10))
        assert refused.value.reason == "THREADS_EXHAUSTED"
        assert collection.search(np.zeros((1, 4), np.float32), SearchOptions(3)) == [[]]
    assert collection.upsert(items(0, 10)) == [True] * 10
    assert collection.wait_indexed(60)


@pytest.mark.parametrize("after", ["change", "search"])
def test_what_could_not_be_indexed_is_found_and_indexed_with_the_next_change_or_search(
    after: str, collection: Collection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(indexer, "_START_AGAIN_S", 0.0)
    written = items(0, 20)
    with monkeypatch.context() as short:
        without(short, "twinsight-index-")
        collection.upsert(written)
        assert not collection.wait_indexed(0.05)
        vectors = np.stack([one.vector for one in written])
        assert [one[0].id for one in collection.search(vectors, SearchOptions(1))] == [one.id for one in written]
    assert "collection `mine` is not indexed: No more threads can be started" in caplog.text
    if after == "change":
        collection.upsert(items(20, 1))
    else:
        collection.search(vectors[:1], SearchOptions(1))
    assert collection.wait_indexed(60)
    assert collection.status().indexed_count == collection.status().item_count


def test_a_graph_that_is_gone_leaves_nothing_to_audit(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    linger(monkeypatch, 0.01)
    collection.upsert(items(0, 10))
    assert collection.wait_indexed(60)
    until(lambda: threads() == [])
    kept = collection._indexer
    assert kept.generation.graph is not None
    # As where a change of the graph failed before it was audited, in a collection that is too small for another.
    kept.generation.graph, kept._unaudited = None, 3
    collection.delete(["0", "1", "2", "3"])
    until(lambda: threads() == [])
