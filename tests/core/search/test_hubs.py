"""Under the inner product walks lead to the longest vectors; where those are missing they are not trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.filters import Filter, Range
from twinsight_core.index.base import Metric
from twinsight_core.index.exact import ExactIndex, ExactView
from twinsight_core.index.hnsw import GraphParameters, HnswIndex, exponent_for
from twinsight_core.items import CollectionSpec, NewItem, SearchOptions
from twinsight_core.search.generation import NOTHING_COVERED, Generation
from twinsight_core.search.hubs import Hubs
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.search.rows import RowBatch, Rows
from twinsight_core.search.search import search
from twinsight_core.storage.store import FILE_NAME, Store

COUNT, DIMENSION = 7000, 24
PARAMETERS = GraphParameters(threads=2)
NONE = np.empty(0, np.int64)


def _vectors(sigma: float, count: int = COUNT) -> np.ndarray:
    """Vectors in clusters, in any order."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(count // 60, DIMENSION))
    drawn = centres[rng.integers(len(centres), size=count)] + 0.5 * rng.normal(size=(count, DIMENSION))
    drawn *= rng.lognormal(0, sigma, (count, 1))
    return drawn.astype(np.float32)


def _longest_first(vectors: np.ndarray) -> np.ndarray:
    return np.argsort(-np.linalg.norm(vectors, axis=1))


def _remove(generation: Generation, labels: np.ndarray) -> None:
    generation.rows.apply(RowBatch(NONE, [], np.empty((0, DIMENSION), np.float32), []), removed=labels)
    generation.dying.extend(labels.tolist())
    generation.bury()


def _generation(vectors: np.ndarray) -> Generation:
    rows = Rows(DIMENSION, Metric.DOT)
    count = len(vectors)
    rank = [{"rank": place / count} for place in np.argsort(_longest_first(vectors)).tolist()]
    rows.apply(RowBatch(np.arange(1, count + 1), [f"i{n}" for n in range(count)], vectors, rank), removed=NONE)
    generation = Generation(rows)
    graph = HnswIndex(
        DIMENSION, Metric.DOT, PARAMETERS, exponent=exponent_for(Metric.DOT, rows.view.longest), capacity=count
    )
    generation.coverage = generation.extend(graph, NOTHING_COVERED, count)
    generation.graph = graph
    generation.survey()
    return generation


def _recall(generation: Generation, queries: np.ndarray, filter_: Filter | None) -> float:
    options = SearchOptions(10, filter_)
    found = search(generation, queries, options, ef=20).found
    truth = search(generation, queries, replace(options, exact=True), ef=20).found
    return float(np.mean([len(set(one.rows) & set(true.rows)) / 10 for one, true in zip(found, truth, strict=True)]))


@pytest.fixture(scope="module", params=[0.3, 0.5])
def sigma(request: pytest.FixtureRequest) -> float:
    return float(request.param)


def test_missing_hubs_cost_no_recall(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = _vectors(sigma)
    queries = vectors[np.random.default_rng(1).permutation(COUNT)[:60]]
    generation = _generation(vectors)
    assert not generation.misleads
    assert _recall(generation, queries, None) >= 0.99
    assert _recall(generation, queries, Range("rank", gte=0.05)) >= 0.99
    _remove(generation, 1 + _longest_first(vectors)[: COUNT * 19 // 100])
    assert generation.misleads
    assert _recall(generation, queries, None) >= 0.99
    monkeypatch.setattr(Hubs, "lead_to", lambda *_: True)
    assert _recall(generation, queries, None) < 0.99  # else it would show nothing


@pytest.mark.parametrize(
    ("gone", "leads"),
    [
        ([], True),
        (range(0, 1000, 3), True),  # as many of the long ones as of all
        (range(500, 1000), True),
        (range(2), True),
        (range(8), False),
        (range(10, 50), False),
    ],
)
def test_hubs_lead_where_as_many_of_them_are_left_as_of_all(gone: range, leads: bool) -> None:
    lengths = np.arange(1000, 0, -1)
    index = ExactIndex(1, Metric.DOT)
    index.add(np.arange(1000), lengths[:, None].astype(np.float32))
    hubs = Hubs.of(index.view, 1000, 1000)
    assert hubs is not None
    assert [sorted(rows.tolist()) for rows in hubs.rows] == [list(range(10)), list(range(50))]
    allowed = np.ones(1000, np.bool_)
    allowed[list(gone)] = False
    assert hubs.lead_to(allowed, int(allowed.sum())) == leads


def test_there_are_hubs_under_the_inner_product_alone() -> None:
    for metric in Metric:
        index = ExactIndex(1, metric)
        index.add(np.arange(1000), np.linspace(0.5, 1.0, 1000, dtype=np.float32)[:, None])
        assert (Hubs.of(index.view, 1000, 1000) is not None) == (metric is Metric.DOT)
        assert Hubs.of(index.view, 999, 999) is None


@pytest.mark.parametrize(("times", "trusted"), [(1.5, True), (10.0, False)])
def test_walks_are_not_trusted_where_one_vector_is_far_longer_than_all_others(times: float, trusted: bool) -> None:
    vectors = _vectors(0.0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[77] *= times
    generation = _generation(vectors)
    assert (generation.hubs is None) == trusted
    assert not generation.misleads, "to build the graph anew would not help"
    assert _recall(generation, vectors[:60], None) == 1.0


def test_where_lengths_are_about_equal_walks_are_trusted_as_under_the_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = _vectors(0.0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= np.random.default_rng(1).uniform(0.91, 1.0, (COUNT, 1)).astype(np.float32)
    generation = _generation(vectors)
    assert generation.hubs is None
    _remove(generation, _longest_first(vectors)[: COUNT // 5] + 1)
    queries, options = vectors[:100], SearchOptions(top_k=30)
    exact = search(generation, queries, replace(options, exact=True), ef=96)
    monkeypatch.setattr(ExactView, "nearest", None)  # nothing is compared with all
    found = search(generation, queries, options, ef=96)
    hits = [len(np.intersect1d(one.rows, true.rows)) for one, true in zip(found.found, exact.found, strict=True)]
    assert sum(hits) >= 0.99 * 30 * len(queries)


def test_a_graph_that_lost_its_hubs_is_built_anew_also_after_a_start(tmp_path: Path) -> None:
    folder = tmp_path / "dot"
    folder.mkdir()
    Store.create(folder / FILE_NAME, CollectionSpec("dot", DIMENSION, Metric.DOT))
    # Graphs are built anew for lost hubs alone.
    policy = IndexPolicy(graph_from=1000, patience=100_000, purge_rest=0.0)
    options = CollectionOptions(graph=PARAMETERS, policy=policy)
    collection = Collection(folder, options)
    vectors = _vectors(0.5, 2000)
    vectors = vectors[_longest_first(vectors)]
    collection.upsert([NewItem(f"i{n}", vector) for n, vector in enumerate(vectors)])
    assert collection.wait_indexed(30)
    first = collection._indexer.generation
    collection.delete([f"i{n}" for n in range(1000, 1100)])
    assert collection.wait_indexed(30)
    assert collection._indexer.generation is first
    collection.delete([f"i{n}" for n in range(50)])
    assert collection.wait_indexed(30)
    rebuilt = collection._indexer.generation
    assert rebuilt is not first
    assert rebuilt.graph is not None
    assert (len(rebuilt.graph), rebuilt.graph.dead, rebuilt.misleads) == (1850, 0, False)
    # What a snapshot has of removed points is of no row after a start: it can't be told which they were.
    collection.delete([f"i{n}" for n in range(1100, 1200)])
    collection.close()
    collection = Collection(folder, options)
    assert collection.wait_indexed(30)
    graph = collection._indexer.generation.graph
    assert graph is not None
    assert (len(graph), graph.dead) == (1750, 0)
    collection.close()
