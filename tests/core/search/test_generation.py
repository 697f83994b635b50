"""Which rows a graph is trusted with."""

import numpy as np
import pytest

from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import GraphParameters, HnswIndex
from twinsight_core.search.generation import NOTHING_COVERED, Generation
from twinsight_core.search.rows import RowBatch, Rows

COUNT, DIMENSION, WIDTH = 2000, 32, 32
# Of so few links that walks go astray.
SPARSE = GraphParameters(links=2, build_width=8)
NONE = np.empty(0, np.int64)


def _generation(metric: Metric) -> Generation:
    rows = Rows(DIMENSION, metric)
    vectors = np.random.default_rng(0).normal(size=(COUNT, DIMENSION)).astype(np.float32)
    added = RowBatch(np.arange(1, COUNT + 1), [f"i{n}" for n in range(COUNT)], vectors, [{}] * COUNT)
    rows.apply(added, removed=NONE)
    rows.apply(RowBatch(NONE, [], np.empty((0, DIMENSION), np.float32), []), removed=np.arange(1, 100))
    return Generation(rows)


def _unfound(generation: Generation, graph: HnswIndex, width: int) -> set[int]:
    """Returns which live rows a walk for their own vector does not find."""
    view = generation.rows.view
    live = np.flatnonzero(view.alive)
    found = graph.search(view.read(live), width)
    return {int(row) for row, labels in zip(live, found, strict=True) if view.labels[row] not in labels}


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.EUCLIDEAN])
def test_an_audit_leaves_out_what_a_walk_does_not_find(metric: Metric) -> None:
    generation = _generation(metric)
    graph = HnswIndex(DIMENSION, metric, SPARSE)
    coverage = generation.extend(graph, NOTHING_COVERED, COUNT)
    wide, narrow = _unfound(generation, graph, WIDTH), _unfound(generation, graph, WIDTH // 8)
    assert 0 < len(wide) < len(narrow)  # else the test could not tell them apart
    for first in range(0, COUNT, 700):
        coverage = generation.audited(graph, coverage, first, min(first + 700, COUNT), width=WIDTH)
    assert set(coverage.outside.tolist()) == wide
    assert coverage.end == COUNT
    # What is left out already is not asked for again, and stays out.
    assert generation.audited(graph, coverage, 0, COUNT, width=WIDTH).outside.tolist() == coverage.outside.tolist()


def test_an_audit_leaves_nothing_out_under_the_inner_product() -> None:
    generation = _generation(Metric.DOT)
    graph = HnswIndex(DIMENSION, Metric.DOT, SPARSE)
    coverage = generation.extend(graph, NOTHING_COVERED, COUNT)
    assert generation.audited(graph, coverage, 0, COUNT, width=WIDTH) is coverage


def test_the_graph_is_told_only_of_what_it_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    generation = _generation(Metric.COSINE)
    copies = np.repeat(generation.rows.view.vectors[500:501], 10, axis=0)
    generation.rows.apply(
        RowBatch(np.arange(COUNT + 1, COUNT + 21), ["copy"] * 20, np.concatenate([copies, copies + 1]), [{}] * 20), NONE
    )
    graph = HnswIndex(DIMENSION, Metric.COSINE, GraphParameters())
    generation.coverage = generation.extend(graph, NOTHING_COVERED, COUNT + 10)
    generation.graph = graph
    told = list[int]()
    monkeypatch.setattr(graph, "remove", lambda labels: told.extend(labels.tolist()))
    # In the graph; copies beside it; in the tail; of no row.
    generation.dying.extend([500, 700, *range(COUNT + 1, COUNT + 15), COUNT + 99])
    assert generation.bury() == 17
    assert told == [500, 700, *range(COUNT + 1, COUNT + 11)]
    assert not generation.dying
