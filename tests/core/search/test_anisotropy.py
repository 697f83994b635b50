"""Under the inner product walks lead along what rows lie about; other queries are compared with all rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from twinsight_core.filters import Exists, Filter, Not
from twinsight_core.index.base import Metric
from twinsight_core.index.exact import ExactIndex, ExactView
from twinsight_core.index.hnsw import GraphParameters, HnswIndex, exponent_for
from twinsight_core.items import SearchOptions
from twinsight_core.search.anisotropy import Anisotropy
from twinsight_core.search.generation import NOTHING_COVERED, Generation
from twinsight_core.search.rows import RowBatch, Rows
from twinsight_core.search.search import search

COUNT, DIMENSION = 6000, 32
NONE = np.empty(0, np.int64)


def _about(
    noise: float, count: int = COUNT, *, directions: int = 1, stragglers: float = 0.0, clusters: int = 60
) -> np.ndarray:
    """Vectors in clusters about a common one of length 1, about both ends of an axis, or about three.

    Args:
        noise: length of the rest.
        count: of the vectors.
        directions: that they lie about, evenly spaced in a plane.
        stragglers: share of them that points anywhere.
        clusters: of the rest; 0: none.
    """
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(DIMENSION, 2)))[0].T
    angles = 2 * np.pi * rng.integers(0, directions, count) / directions
    common = np.cos(angles)[:, None] * axes[0] + np.sin(angles)[:, None] * axes[1]
    off = rng.normal(size=(count, DIMENSION))
    if clusters:
        off = 0.6 * off + 0.8 * rng.normal(size=(clusters, DIMENSION))[rng.integers(0, clusters, count)]
    vectors: np.ndarray = common + noise / np.sqrt(DIMENSION) * off
    vectors *= rng.uniform(0.9, 1.0, (count, 1))
    straying = rng.random(count) < stragglers
    vectors[straying] = 0.7 / np.sqrt(DIMENSION) * rng.normal(size=(np.count_nonzero(straying), DIMENSION))
    return vectors.astype(np.float32)


def _generation(vectors: np.ndarray, metric: Metric = Metric.DOT) -> Generation:
    rows, count = Rows(vectors.shape[1], metric), len(vectors)
    rows.apply(RowBatch(np.arange(1, count + 1), [f"i{n}" for n in range(count)], vectors, [{}] * count), removed=NONE)
    generation = Generation(rows)
    graph = HnswIndex(
        vectors.shape[1],
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


@pytest.mark.parametrize(
    "vectors",
    [
        pytest.param(_about(0.1), id="narrow"),
        pytest.param(_about(0.3), id="usual"),
        pytest.param(_about(1.0), id="wide"),
        pytest.param(_about(0.5, clusters=0), id="without clusters"),
        pytest.param(_about(0.3, directions=2), id="about an axis"),
        pytest.param(_about(0.3, directions=3), id="about three directions"),
        pytest.param(_about(0.3, stragglers=0.03), id="with stragglers"),
        pytest.param(_about(0.3, stragglers=0.1), id="with many stragglers"),
    ],
)
def test_what_walks_do_not_lead_to_is_found_all_the_same(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = _generation(vectors)
    generation.survey()
    rng = np.random.default_rng(1)
    some, other = vectors[rng.permutation(COUNT)[:60]], rng.normal(size=(60, DIMENSION)).astype(np.float32)
    asked = {"less the mean": some - vectors.mean(axis=0), "opposite": -some, "random": other, "zero": 0 * some}
    assert min(_recall(generation, queries) for queries in asked.values()) >= 0.95
    assert generation.anisotropy is not None
    assert generation.anisotropy.leads_to(some).mean() > 0.85, "queries like the rows walk"
    assert _recall(generation, some) >= 0.9
    monkeypatch.setattr(Anisotropy, "leads_to", lambda _self, queries: np.ones(len(queries), np.bool_))
    assert _recall(generation, asked["random"]) < 0.9  # else it would show nothing


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_a_few_components_are_no_exception(dimension: int) -> None:
    rng = np.random.default_rng(0)
    vectors = (np.eye(1, dimension) + 0.2 * rng.normal(size=(COUNT, dimension))).astype(np.float32)
    generation = _generation(vectors)
    generation.survey()
    for queries in (-vectors[:60], rng.normal(size=(60, dimension)).astype(np.float32), vectors[:60]):
        assert _recall(generation, queries) >= 0.97


def test_queries_of_both_kinds_in_one_call_have_their_own_answers() -> None:
    vectors = _about(0.3)
    generation = _generation(vectors)
    generation.survey()
    mixed = np.concatenate([vectors[:20], -vectors[:20]])[np.random.default_rng(2).permutation(40)]
    together = search(generation, mixed, SearchOptions(10), ef=20).found
    for query, found in zip(mixed, together, strict=True):
        (alone,) = search(generation, query[None], SearchOptions(10), ef=20).found
        assert found.rows.tolist() == alone.rows.tolist()


def test_until_a_graph_from_the_disk_is_surveyed_searches_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = _about(0.3)
    generation = _generation(vectors)
    assert _recall(generation, -vectors[:40]) == 1.0
    assert not generation.is_surveyed
    # Nor are they walked without what the survey finds where it ends meanwhile.
    mask = Rows.mask

    def surveying(rows: Rows, condition: Filter, view: ExactView) -> np.ndarray:
        generation.survey()
        return mask(rows, condition, view)

    monkeypatch.setattr(Rows, "mask", surveying)
    options = SearchOptions(10, Not(Exists("x")))
    found = search(generation, -vectors[:40], options, ef=20).found
    assert generation.is_surveyed
    truth = search(generation, -vectors[:40], replace(options, exact=True), ef=20).found
    assert [one.rows.tolist() for one in found] == [true.rows.tolist() for true in truth]


_UNIT = _about(0.3) / np.linalg.norm(_about(0.3), axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("metric", "vectors", "lie_about_few"),
    [
        pytest.param(Metric.DOT, _about(1.0), True, id="about one"),
        pytest.param(Metric.DOT, _about(0.3, directions=2), True, id="about an axis"),
        pytest.param(Metric.DOT, 1e-25 * _about(1.0), True, id="tiny"),
        pytest.param(Metric.DOT, _about(1.0)[:999], False, id="few"),
        pytest.param(Metric.DOT, _about(50.0), False, id="in all directions"),
        pytest.param(Metric.DOT, np.zeros((2000, DIMENSION)), False, id="zeros"),
        pytest.param(Metric.DOT, _UNIT, False, id="of one length"),
        pytest.param(Metric.EUCLIDEAN, _about(1.0), False, id="distances"),
        pytest.param(Metric.COSINE, _UNIT, False, id="cosines"),
    ],
)
def test_rows_lie_about_few_directions_or_not(metric: Metric, vectors: np.ndarray, lie_about_few: bool) -> None:
    index = ExactIndex(vectors.shape[1], metric)
    index.add(np.arange(len(vectors)), vectors.astype(np.float32))
    anisotropy = Anisotropy.of(index.view, np.ones(len(vectors), np.bool_))
    assert (anisotropy is not None) == lie_about_few
    if anisotropy is not None:
        assert anisotropy.leads_to(vectors[:100].astype(np.float32)).mean() > 0.9
        assert not anisotropy.leads_to(np.zeros((1, DIMENSION), np.float32)).any()


def test_removed_rows_and_copies_beside_the_graph_do_not_count() -> None:
    index = ExactIndex(DIMENSION, Metric.DOT)
    index.add(np.arange(6000), np.concatenate([_about(0.3, 4000), _about(50.0, 2000)]))
    every = np.ones(6000, np.bool_)
    assert Anisotropy.of(index.view, every) is not None
    assert Anisotropy.of(index.view, every & (np.arange(6000) >= 4000)) is None
    index.remove(np.arange(4000))
    assert Anisotropy.of(index.view, every) is None
