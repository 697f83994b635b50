"""What a search finds when the graph is in play: recall, filters, copies, and writes that run beside it."""

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.filters import AllOf, Equals, Filter, In, Not, Range
from twinsight_core.index.base import Metric
from twinsight_core.index.exact import ExactView, Found
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.index.row_memory import VectorCopy
from twinsight_core.items import CollectionSpec, CollectionState, NewItem, SearchOptions
from twinsight_core.search import indexer, search
from twinsight_core.search.generation import Generation
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.search.rows import Rows
from twinsight_core.storage.store import FILE_NAME, Store

COUNT, DIMENSION, CLUSTERS = 6000, 32, 40
# Narrow walks, so that six thousand items are many beside them, as a hundred thousand are beside wide ones.
OPTIONS = CollectionOptions(graph=GraphParameters(threads=2), ef=32)
RECALL = 0.98
# Deep in the list, graphs of inner products miss more.
DOT_RECALL = 0.95


def _made(folder: Path, metric: Metric, options: CollectionOptions = OPTIONS) -> Collection:
    folder.mkdir()
    Store.create(folder / FILE_NAME, CollectionSpec(folder.name, DIMENSION, metric))
    return Collection(folder, options)


class Clustered:
    """Vectors around centres. Fields: `even` in share, `cluster` where they lie."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.centres = self.rng.normal(size=(CLUSTERS, DIMENSION))

    def items(self, first: int, count: int) -> list[NewItem]:
        clusters = self.rng.integers(CLUSTERS, size=count)
        vectors = (self.centres[clusters] + 0.4 * self.rng.normal(size=(count, DIMENSION))).astype(np.float32)
        draws = self.rng.random(count)
        return [
            NewItem(f"i{first + i}", vectors[i], {"draw": float(draws[i]), "cluster": int(clusters[i])})
            for i in range(count)
        ]

    def queries(self, count: int) -> np.ndarray:
        return np.stack([item.vector for item in self.items(0, count)])


@pytest.fixture(scope="module", params=list(Metric))
def indexed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    metric: Metric = request.param
    collection = _made(tmp_path_factory.mktemp("search") / metric.value, metric)
    collection.upsert(Clustered(0).items(0, COUNT))
    assert collection.wait_indexed(60)
    assert collection.status().indexed_count == COUNT
    yield collection
    collection.close()


def _recall(collection: Collection, queries: np.ndarray, filter_: Filter | None, k: int = 10) -> float:
    truth = collection.search(queries, SearchOptions(k, filter_, exact=True))
    found = collection.search(queries, SearchOptions(k, filter_))
    shares = []
    for true, one in zip(truth, found, strict=True):
        assert len(one) == len(true)
        shares.append(len({match.id for match in one} & {match.id for match in true}) / max(1, len(true)))
    return float(np.mean(shares))


@pytest.mark.parametrize("k", [1, 10, 60, 400])
def test_a_walk_finds_nearly_all_that_is_nearest(indexed: Collection, k: int) -> None:
    deep_dot = indexed.spec.metric is Metric.DOT and k > 10
    assert _recall(indexed, Clustered(0).queries(100), None, k) >= (DOT_RECALL if deep_dot else RECALL)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_a_filter_by_chance_costs_no_recall(indexed: Collection, share: float) -> None:
    assert _recall(indexed, Clustered(0).queries(100), Range("draw", lt=share)) >= RECALL


@pytest.mark.parametrize("clusters", [20, 4, 1])
def test_a_filter_on_where_items_lie_costs_no_recall(indexed: Collection, clusters: int) -> None:
    # Queries lie in all clusters: for most, whatever may be found is far away.
    assert _recall(indexed, Clustered(0).queries(100), Range("cluster", lt=clusters)) >= RECALL


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_a_walk_under_a_filter_by_chance_seldom_falls_short(k: int, share: float) -> None:
    width = search._width(SearchOptions(k, Equals("a", 1)), 1, share, has_hubs=False)
    trusted = int(width * search._TRUSTED_SHARE)
    found = np.random.default_rng(0).binomial(trusted, share, 20_000)
    assert np.mean(found >= k) > 0.95
    # Nor is it much wider than that takes.
    assert trusted * share <= k + 2.1 * k**0.5


def test_a_filter_that_leaves_a_handful_finds_all_of_it(indexed: Collection) -> None:
    few = AllOf((Range("draw", lt=0.02), Equals("cluster", 3)))
    truth = indexed.search(Clustered(0).queries(5), SearchOptions(1000, few, exact=True))
    found = indexed.search(Clustered(0).queries(5), SearchOptions(1000, few))
    assert found == truth
    assert 0 < len(truth[0]) < 20
    assert indexed.search(Clustered(0).queries(1), SearchOptions(10, Equals("cluster", "3"))) == [[]]
    assert len(indexed.search(Clustered(0).queries(1), SearchOptions(10, Not(Equals("cluster", "3"))))[0]) == 10


def test_exact_answers_are_those_of_float64(indexed: Collection) -> None:
    vectors = np.stack([item.vector for item in Clustered(0).items(0, COUNT)]).astype(np.float64)
    queries = Clustered(9).queries(20)
    for query, found in zip(queries, indexed.search(queries, SearchOptions(10, exact=True)), strict=True):
        if indexed.spec.metric is Metric.EUCLIDEAN:
            truth = -np.linalg.norm(vectors - query, axis=1)
        else:
            truth = vectors @ query.astype(np.float64)
        if indexed.spec.metric is Metric.COSINE:
            truth /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(query.astype(np.float64))
        assert [match.id for match in found] == [f"i{row}" for row in np.argsort(-truth)[:10]]
        assert [match.score for match in found] == pytest.approx(np.sort(truth)[::-1][:10], rel=1e-6)


def test_a_wide_walk_asked_for_is_taken(indexed: Collection) -> None:
    queries = Clustered(0).queries(50)
    truth = indexed.search(queries, SearchOptions(5, exact=True))
    wide = indexed.search(queries, SearchOptions(5, ef=150))
    assert [[match.id for match in one] for one in wide] == [[match.id for match in one] for one in truth]


@pytest.mark.parametrize("count", [20, 600])  # compared with beside a walk, and scanned
def test_copies_do_not_hide_the_rest(tmp_path: Path, count: int) -> None:
    clustered = Clustered(1)
    items = clustered.items(0, 3000)
    copies = [NewItem(f"copy{i}", items[5].vector, {"odd": i % 2}) for i in range(count)]
    mixed = [*items, *copies]
    mixed = [mixed[place] for place in clustered.rng.permutation(len(mixed))]
    collection = _made(tmp_path / "copies", Metric.COSINE)
    collection.upsert(mixed)
    assert collection.wait_indexed(60)
    assert collection.status().indexed_count == len(mixed)
    queries = np.stack([item.vector for item in items[::30]])
    truth = collection.search(queries, SearchOptions(10, exact=True))
    found = collection.search(queries, SearchOptions(10))
    lost = [
        [one.score for one in true] != [other.score for other in walked]
        for true, walked in zip(truth, found, strict=True)
    ]
    assert sum(lost) <= 2
    own = collection.search(items[5].vector[None], SearchOptions(count + 100))[0]
    assert [match.score for match in own[: count + 1]] == [1.0] * (count + 1)
    few = collection.search(items[5].vector[None], SearchOptions(10))[0]
    assert few == own[:10]
    assert all(len({match.id for match in one}) == 10 for one in [few, *found])
    collection.delete([f"copy{i}" for i in range(8)])
    assert collection.wait_indexed(60)
    for options in (SearchOptions(10), SearchOptions(10, Equals("odd", 1)), SearchOptions(10, Not(Equals("odd", 1)))):
        walked = collection.search(items[5].vector[None], options)
        assert walked == collection.search(items[5].vector[None], replace(options, exact=True))
    collection.close()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many allowed rows each exact comparison had to look at."""
    counts: list[int] = []
    nearest = ExactView.nearest

    def counted(
        view: ExactView,
        queries: np.ndarray,
        k: int,
        *,
        among: slice | np.ndarray = slice(None),
        allowed: np.ndarray | None = None,
    ) -> list[Found]:
        counts.append(int(np.count_nonzero((view.alive if allowed is None else allowed)[among])))
        return nearest(view, queries, k, among=among, allowed=allowed)

    monkeypatch.setattr(ExactView, "nearest", counted)
    return counts


def test_of_equal_items_beside_the_graph_one_is_compared(tmp_path: Path, looked_at: list[int]) -> None:
    clustered = Clustered(2)
    items = clustered.items(0, 3000)
    copies = [
        NewItem(f"copy{n}-{i}", items[n].vector, {"odd": i % 2, "n": n}) for n in range(30) for i in range(5 + 5 * n)
    ]
    mixed = [*items, *copies]
    mixed = [mixed[place] for place in clustered.rng.permutation(len(mixed))]
    alone = replace(OPTIONS, graph=GraphParameters(threads=1))  # with more, graphs differ from run to run
    collection = _made(tmp_path / "groups", Metric.COSINE, alone)
    collection.upsert(mixed)

    def standing() -> int:
        assert collection.wait_indexed(60)
        generation = collection._indexer.generation
        return len(generation.coverage.beside.standing(generation.rows.view.alive).rows)

    def check() -> None:
        queries = np.stack([item.vector for item in items[:40]]) + np.float32(0.01)
        odd, few, copied = Equals("odd", 1), In("n", (3, 4)), In("n", (27, 29))
        for options in (
            SearchOptions(1),
            SearchOptions(25),
            SearchOptions(25, odd),
            SearchOptions(9, Not(few)),
            SearchOptions(9, copied),
        ):
            walked = collection.search(queries, options)
            assert walked == collection.search(queries, replace(options, exact=True))
        # Of 290 that the last filter leaves, those in the graph and one of each group.
        looked_at.clear()
        collection.search(queries, SearchOptions(9, copied))
        assert sum(looked_at) <= 10

    # Some more are what an audit finds out of reach.
    assert 30 <= standing() < 40
    check()
    collection.delete([f"copy{n}-{i}" for n in range(10) for i in range(5 + 5 * n)])
    assert 20 <= standing() < 30
    check()
    collection.close()
    collection = Collection(tmp_path / "groups", alone)
    assert 20 <= standing() < 30
    check()
    collection.close()


def test_items_whose_metadata_is_rewritten_stay_in_the_graph(tmp_path: Path) -> None:
    options = replace(OPTIONS, policy=IndexPolicy(patience=5000))  # no other graph is built
    collection = _made(tmp_path / "tagged", Metric.COSINE, options)
    items = Clustered(7).items(0, 3000)
    collection.upsert(items)
    queries = Clustered(7).queries(60)

    def outside() -> int:
        assert collection.wait_indexed(60)
        return len(collection._indexer.generation.coverage.outside)

    before = outside()
    for tag in range(3):
        collection.upsert([NewItem(item.id, item.vector, {"tag": tag}) for item in items[:600]])
        assert outside() <= before + 5  # what an audit finds out of reach
        assert _recall(collection, queries, None) >= RECALL
    # One that is rewritten again and again is beside the graph in the end, where there is one of it alive.
    for tag in range(12):
        collection.upsert([NewItem("i0", items[0].vector, {"tag": tag})])
        outside()
    coverage, view = collection._indexer.generation.coverage, collection._indexer.generation.rows.view
    assert np.count_nonzero(view.alive[coverage.outside]) <= before + 6
    assert len(coverage.outside) >= 5
    assert collection.search(items[0].vector[None], SearchOptions(1))[0][0].id == "i0"
    collection.close()
    collection = Collection(tmp_path / "tagged", options)
    collection.upsert([NewItem(item.id, item.vector, {"tag": 9}) for item in items[:600]])
    assert outside() <= before + 7
    assert _recall(collection, queries, None) >= RECALL
    collection.close()


@pytest.mark.parametrize("metric", [Metric.EUCLIDEAN, Metric.COSINE])
def test_items_far_from_all_others_are_found(tmp_path: Path, metric: Metric) -> None:
    rng = np.random.default_rng(6)
    crowd = rng.normal(size=(4000, DIMENSION)).astype(np.float32)
    crowd[:, 0] += 20  # under cosine: all in one direction
    lonely = rng.normal(size=(200, DIMENSION)).astype(np.float32) * 30
    lonely[:, 0] = -20
    options = CollectionOptions(graph=GraphParameters(threads=2), policy=IndexPolicy(audit_rest=0.0), ef=32)
    collection = _made(tmp_path / metric.value, metric, options)
    for first in range(0, 4000, 1000):
        collection.upsert([NewItem(f"i{first + i}", vector) for i, vector in enumerate(crowd[first : first + 1000])])
        collection.upsert([NewItem(f"far{first}-{i}", vector) for i, vector in enumerate(lonely[first // 20 :][:50])])
        assert collection.wait_indexed(60)
    found = collection.search(lonely, SearchOptions(1))
    assert [one[0].id for one in found] == [f"far{1000 * (i // 50)}-{i % 50}" for i in range(200)]
    collection.close()
    collection = Collection(tmp_path / metric.value, options)
    assert collection.search(lonely, SearchOptions(1)) == found
    collection.close()


@pytest.mark.parametrize(("on_disk", "copy"), [(False, "float32"), (True, "float32"), (False, "int8"), (True, "int8")])
def test_the_graph_follows_replacements_and_deletions(tmp_path: Path, on_disk: bool, copy: VectorCopy) -> None:
    options = CollectionOptions(
        graph=GraphParameters(threads=2),
        policy=IndexPolicy(patience=100),
        ef=32,
        vectors_on_disk=on_disk,
        vector_copy=copy,
    )
    collection = _made(tmp_path / "churn", Metric.EUCLIDEAN, options)
    clustered = Clustered(2)
    collection.upsert(clustered.items(0, 3000))
    for round_ in range(4):
        assert collection.wait_indexed(60)
        collection.upsert(clustered.items(1500 * (round_ % 2), 1500))
        assert collection.delete([f"i{i}" for i in range(100 * round_, 100 * round_ + 50)]) == [True] * 50
        assert _recall(collection, clustered.queries(50), None) >= RECALL
    assert collection.wait_indexed(60)
    # The dead were left behind by new generations.
    generation = collection._indexer.generation
    assert len(generation.rows.view) < 1.3 * collection.status().item_count
    assert generation.graph is not None
    assert generation.graph.dead < 0.3 * len(generation.graph)
    found = collection.search(clustered.queries(200), SearchOptions(1))
    assert len(found) == 200
    collection.close()


def test_small_collections_need_no_graph(tmp_path: Path) -> None:
    collection = _made(tmp_path / "small", Metric.COSINE)
    collection.upsert(Clustered(3).items(0, 500))
    assert collection.wait_indexed(10)
    status = collection.status()
    assert (status.state, status.item_count, status.indexed_count) == (CollectionState.READY, 500, 0)
    collection.close()


def test_while_indexing_fails_answers_are_exact_and_then_there_is_a_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(indexer, "_FIRST_REST_S", 0.001)
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise RuntimeError("no more links")

    with monkeypatch.context() as failing:
        failing.setattr(Generation, "extend", fail)
        collection = _made(tmp_path / "failing", Metric.COSINE)
        collection.upsert(Clustered(4).items(0, 3000))
        assert failed.wait(30)
        assert not collection.wait_indexed(0.01)
        status = collection.status()
        assert (status.state, status.indexed_count) == (CollectionState.REBUILDING, 0)
        assert _recall(collection, Clustered(4).queries(20), None) == 1.0
        collection.upsert(Clustered(4).items(5000, 10))
        assert collection.status().item_count == 3010
        # The dead are left behind all the same.
        collection.upsert(Clustered(5).items(0, 2500))
        rows = collection._indexer.generation.rows
        while collection._indexer.generation.rows is rows:
            failed.clear()
            assert failed.wait(30)
        assert len(collection._indexer.generation.rows.view) == 3010
    assert collection.wait_indexed(30)
    status = collection.status()
    assert (status.state, status.indexed_count) == (CollectionState.READY, 3010)
    assert "collection `failing`: indexing failed; retrying in 0 s" in caplog.text
    collection.close()


def test_what_fails_once_costs_no_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer, "_FIRST_REST_S", 0.001)
    compacted, calls = Rows.compacted, list[bool]()
    collection = _made(tmp_path / "once", Metric.COSINE)

    def once(self: Rows, view: ExactView) -> Rows:
        calls.append(collection._indexer.generation.graph is not None)
        if len(calls) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return compacted(self, view)

    monkeypatch.setattr(Rows, "compacted", once)
    collection.upsert(Clustered(4).items(0, 3000))
    assert collection.wait_indexed(30)
    collection.upsert(Clustered(5).items(0, 2500))
    assert collection.wait_indexed(30)
    status = collection.status()
    assert (status.state, status.indexed_count) == (CollectionState.READY, 3000)
    assert len(collection._indexer.generation.rows.view) == 3000
    assert calls == [True, True]
    collection.close()


def test_a_graph_that_was_being_changed_when_that_failed_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "_FIRST_REST_S", 0.001)
    collection = _made(tmp_path / "half", Metric.COSINE)
    collection.upsert(Clustered(4).items(0, 3000))
    assert collection.wait_indexed(30)
    graph = collection._indexer.generation.graph
    assert graph is not None

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(graph, "add", fail)
    collection.upsert(Clustered(4).items(5000, 10))
    assert collection.wait_indexed(30)
    assert collection._indexer.generation.graph not in {None, graph}
    assert collection.status().indexed_count == 3010
    collection.close()
