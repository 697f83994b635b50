"""Rows beside a graph: one of each group of equal vectors is compared, and the result is that of comparing with all."""

import gc
import weakref

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from twinsight_core.index.base import Metric, prepared
from twinsight_core.index.exact import ExactIndex
from twinsight_core.search.beside import NOTHING_BESIDE, Beside, Groups

DIMENSION = 3
# Few, and symmetrical: groups of different vectors often have equal scores.
VECTORS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [-1, 0, 0]], np.float32)


def test_equal_vectors_have_one_number_and_others_have_others() -> None:
    groups = Groups()
    first = groups.numbers(VECTORS[[0, 1, 0]])
    assert first.tolist() == [0, 1, 0]
    assert groups.numbers(VECTORS[[2, 1]]).tolist() == [2, 1]
    assert groups.numbers(VECTORS[:0]).tolist() == []


def test_further_rows_come_in_their_order() -> None:
    beside = NOTHING_BESIDE.joined(np.array([7, 9]), np.array([0, 1]))
    assert beside.joined(np.empty(0, np.int64), np.empty(0, np.int64)) is beside
    more = beside.joined(np.array([8, 3]), np.array([1, 0]))
    assert more.rows.tolist() == [3, 7, 8, 9]
    assert [more.members.of(group).tolist() for group in range(len(more.members))] == [[3, 7], [8, 9]]
    assert beside.rows.tolist() == [7, 9]


@pytest.mark.parametrize("metric", list(Metric))
@given(data=st.data())
def test_one_row_of_each_group_stands_for_all(metric: Metric, data: st.DataObject) -> None:
    kinds = np.array(data.draw(st.lists(st.integers(0, len(VECTORS) - 1), min_size=1, max_size=60)))
    flags = st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds))
    allowed, outside = np.array(data.draw(flags)), np.flatnonzero(data.draw(flags))
    k = data.draw(st.integers(1, 12))
    index = ExactIndex(DIMENSION, metric)
    index.add(np.arange(len(kinds)), prepared(VECTORS[kinds], metric))
    view = index.view
    beside = NOTHING_BESIDE
    groups = Groups()
    for part in np.split(outside, [len(outside) // 2]):
        beside = beside.joined(part, groups.numbers(view.read(part)))
    queries = prepared(np.array([[1, 1, 0], [1, 1, 1], [0.3, -1, 2]], np.float32), metric)
    standing = beside.standing(allowed)
    assert standing.count == np.count_nonzero(allowed[outside])
    assert len(standing.rows) == len(np.unique(kinds[outside][allowed[outside]]))
    if not standing.count:
        return
    found = view.nearest(queries, k, among=standing.rows, allowed=allowed)
    every = view.nearest(queries, k, among=outside, allowed=allowed)
    for one, wanted in zip((standing.expanded(one, k) for one in found), every, strict=True):
        assert one.rows.tolist() == wanted.rows.tolist()
        assert one.scores.tolist() == wanted.scores.tolist()


def test_what_is_replaced_is_freed_without_garbage_collection() -> None:
    beside = Beside(np.arange(4), np.array([0, 0, 1, 1]))
    assert beside.standing(np.ones(4, bool)).count == 4
    left = weakref.ref(beside)
    gc.disable()
    try:
        del beside
        assert left() is None
    finally:
        gc.enable()


def test_what_stands_for_others_is_kept_for_searches_of_the_same() -> None:
    beside = Beside(np.arange(4), np.array([0, 0, 1, 1]))
    alive = np.ones(4, bool)
    standing = beside.standing(alive)
    assert beside.standing(alive) is standing
    fewer = np.array([False, True, True, True])
    assert beside.standing(fewer).rows.tolist() == [1, 2]
    assert standing.rows.tolist() == [0, 2]


def test_the_members_that_are_allowed_are_found_however_far_behind_the_others() -> None:
    index = ExactIndex(DIMENSION, Metric.EUCLIDEAN)
    index.add(np.arange(200), np.repeat(VECTORS[:2], 100, axis=0))
    rows = np.arange(200)
    beside = NOTHING_BESIDE.joined(rows, Groups().numbers(index.view.read(rows)))
    allowed = np.isin(rows, [0, *range(90, 100), 150])
    standing = beside.standing(allowed)
    assert standing.rows.tolist() == [0, 150]
    (found,) = index.view.nearest(VECTORS[:1], 5, among=standing.rows, allowed=allowed)
    assert standing.expanded(found, 5).rows.tolist() == [0, 90, 91, 92, 93]
    assert standing.expanded(found, 12).rows.tolist() == [0, *range(90, 100), 150]
