"""What a search may find, and where it looks for it."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from twinsight_core.index.base import Metric, prepared
from twinsight_core.index.exact import ExactIndex
from twinsight_core.search import search
from twinsight_core.search.beside import NOTHING_BESIDE, Groups
from twinsight_core.search.generation import Coverage

DIMENSION, COUNT = 3, 300


@pytest.mark.parametrize("metric", list(Metric))
@given(
    seed=st.integers(0, 10**6),
    end=st.integers(0, COUNT),
    beside=st.floats(0, 1),
    allowed=st.floats(0, 1),
    k=st.integers(1, 40),
)
def test_without_a_walk_all_that_is_allowed_is_found(
    metric: Metric, seed: int, end: int, beside: float, allowed: float, k: int
) -> None:
    rng = np.random.default_rng(seed)
    # Few different ones: groups of dozens.
    vectors = rng.integers(-2, 3, (12, DIMENSION)).astype(np.float32) + np.float32(0.5)
    index = ExactIndex(DIMENSION, metric)
    index.add(np.arange(COUNT), prepared(vectors[rng.integers(12, size=COUNT)], metric))
    index.remove(rng.choice(COUNT, 30, replace=False))
    view = index.view
    outside = np.flatnonzero(rng.random(end) < beside)
    coverage = Coverage(end, NOTHING_BESIDE.joined(outside, Groups().numbers(view.read(outside))))
    may_be_found = view.alive & (rng.random(COUNT) < allowed)
    scope = search._scope(view, coverage, may_be_found, int(may_be_found.sum()), k)
    in_graph = np.arange(COUNT) < end
    in_graph[outside] = False
    assert scope.answered == np.count_nonzero(may_be_found & in_graph)
    tail = np.count_nonzero(may_be_found[end:])
    assert scope.scanned == tail + (0 if scope.standing is None else len(scope.standing.rows))
    assert (scope.standing is not None) == (np.count_nonzero(may_be_found[outside]) > search._FEW_OUTSIDE)
    queries = prepared(rng.normal(size=(3, DIMENSION)).astype(np.float32), metric)
    for one, wanted in zip(scope.every(queries), view.nearest(queries, k, allowed=may_be_found), strict=True):
        assert one.rows.tolist() == wanted.rows.tolist()
        assert one.scores.tolist() == wanted.scores.tolist()
