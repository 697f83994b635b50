"""Under the inner product walks go along what the rows share; queries that do not are compared with all rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from twinsight_core.index.base import Metric
from twinsight_core.index.exact import ExactIndex
from twinsight_core.index.hnsw import GraphParameters, HnswIndex, exponent_for
from twinsight_core.items import SearchOptions
from twinsight_core.search.generation import NOTHING_COVERED, Generation
from twinsight_core.search.rows import RowBatch, Rows
from twinsight_core.search.search import search
from twinsight_core.search.slant import Slant

COUNT, DIMENSION = 6000, 32
NONE = np.empty(0, np.int64)


def _about(noise: float, count: int = COUNT) -> np.ndarray:
    """Vectors in clusters about a common one of length 1."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=DIMENSION)
    centres = 0.8 * rng.normal(size=(60, DIMENSION))[rng.integers(0, 60, count)]
    off = noise / np.sqrt(DIMENSION) * (centres + 0.6 * rng.normal(size=(count, DIMENSION)))
    vectors: np.ndarray = (common / np.linalg.norm(common) + off).astype(np.float32)
    return vectors


def _generation(vectors: np.ndarray, metric: Metric = Metric.DOT) -> Generation:
    rows, count = Rows(DIMENSION, metric), len(vectors)
    rows.apply(RowBatch(np.arange(1, count + 1), [f"i{n}" for n in range(count)], vectors, [{}] * count), removed=NONE)
    generation = Generation(rows)
    graph = HnswIndex(
        DIMENSION,
        metric,
        GraphParameters(threads=2),
        exponent=exponent_for(metric, rows.view.longest),
        capacity=count,
    )
    generation.coverage = generation.extend(graph, NOTHING_COVERED, count)
    generation.graph = graph
    return generation


def _recall(generation: Generation, queries: np.ndarray) -> float:
    options = SearchOptions(10)
    found = search(generation, queries, options, ef=20).found
    truth = search(generation, queries, replace(options, exact=True), ef=20).found
    return float(np.mean([len(set(one.rows) & set(true.rows)) / 10 for one, true in zip(found, truth, strict=True)]))


@pytest.mark.parametrize("noise", [0.1, 0.3, 1.0])
def test_queries_unlike_the_rows_cost_no_recall(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = _about(noise)
    generation = _generation(vectors)
    generation.survey()
    some = vectors[np.random.default_rng(1).permutation(COUNT)[:40]]
    asked = {"less the mean": some - vectors.mean(axis=0), "opposite": -some, "zero": np.zeros_like(some)}
    assert {name: _recall(generation, queries) for name, queries in asked.items()} == dict.fromkeys(asked, 1.0)
    assert generation.slant is not None
    assert generation.slant.leads_to(some).mean() > 0.9, "queries like the rows walk"
    monkeypatch.setattr(Slant, "leads_to", lambda _self, queries: np.ones(len(queries), np.bool_))
    assert _recall(generation, asked["opposite"]) < 0.9  # else it would show nothing


def test_queries_of_both_kinds_in_one_call_have_their_own_answers() -> None:
    vectors = _about(0.3)
    generation = _generation(vectors)
    generation.survey()
    mixed = np.concatenate([vectors[:20], -vectors[:20]])[np.random.default_rng(2).permutation(40)]
    together = search(generation, mixed, SearchOptions(10), ef=20).found
    for query, found in zip(mixed, together, strict=True):
        (alone,) = search(generation, query[None], SearchOptions(10), ef=20).found
        assert found.rows.tolist() == alone.rows.tolist()


def test_until_a_graph_from_the_disk_is_surveyed_searches_are_exact() -> None:
    vectors = _about(0.3)
    generation = _generation(vectors)
    assert not generation.is_surveyed
    assert _recall(generation, -vectors[:40]) == 1.0
    assert _generation(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), Metric.COSINE).is_surveyed


@pytest.mark.parametrize(
    ("metric", "vectors", "is_slanted"),
    [
        pytest.param(Metric.DOT, _about(1.0), True, id="about a common vector"),
        pytest.param(Metric.DOT, 1e-25 * _about(1.0), True, id="tiny"),
        pytest.param(Metric.DOT, _about(1.0)[:999], False, id="few"),
        pytest.param(Metric.DOT, _about(50.0), False, id="hardly a common vector"),
        pytest.param(Metric.DOT, np.zeros((2000, DIMENSION)), False, id="zeros"),
        pytest.param(Metric.DOT, _about(0.3) / np.linalg.norm(_about(0.3), axis=1)[:, None], False, id="one length"),
        pytest.param(Metric.EUCLIDEAN, _about(1.0), False, id="distances"),
        pytest.param(Metric.COSINE, _about(1.0) / np.linalg.norm(_about(1.0), axis=1)[:, None], False, id="cosines"),
    ],
)
def test_the_rows_are_slanted_where_they_share_a_direction(
    metric: Metric, vectors: np.ndarray, is_slanted: bool
) -> None:
    index = ExactIndex(DIMENSION, metric)
    index.add(np.arange(len(vectors)), vectors.astype(np.float32))
    slant = Slant.of(index.view, len(vectors))
    assert (slant is not None) == is_slanted
    if slant is not None:
        mean = vectors.mean(axis=0)
        mean /= np.abs(mean).max()
        assert slant.direction @ mean / np.linalg.norm(mean) > 0.99
        assert slant.leads_to(np.stack([mean, -mean, 0 * mean]).astype(np.float32)).tolist() == [True, False, False]
