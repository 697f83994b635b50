"""A copy in int8 is scanned, and the answers are those of the vectors."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.index import exact
from twinsight_core.index.base import Metric, prepared, scores
from twinsight_core.index.exact import ExactIndex, ExactView, Found
from twinsight_core.index.int8_copy import quantised
from twinsight_core.index.row_memory import RowPlaces

TEMPORARY = Path(tempfile.gettempdir())
PLACES = [RowPlaces(TEMPORARY, "int8"), RowPlaces(TEMPORARY, "int8", TEMPORARY)]
SCALES = [1e-45, 1e-40, 1e-30, 1e-20, 1e-10, 1.0, 1e3, 1e10, 1e16]


def pair(vectors: np.ndarray, metric: Metric, *, places: RowPlaces = PLACES[0]) -> tuple[ExactIndex, ExactIndex]:
    """Returns an index that scans the copy and one that scans the vectors, filled in pieces, so that they grow."""
    both = ExactIndex(vectors.shape[1], metric, capacity=3, places=places), ExactIndex(vectors.shape[1], metric)
    for index in both:
        for first in range(0, len(vectors), 17):
            part = vectors[first : first + 17]
            index.add(np.arange(first, first + len(part)), part)
    return both


def bits(found: list[Found]) -> list[tuple[list[int], bytes]]:
    return [(one.rows.tolist(), one.scores.tobytes()) for one in found]


def truth(view: ExactView, queries: np.ndarray, k: int, pool: np.ndarray) -> list[list[int]]:
    """Returns rows of a pool by their scores, and of equal ones the first, with nothing left out before."""
    every = scores(
        queries, np.broadcast_to(view.vectors[pool], (len(queries), len(pool), queries.shape[1])), view.metric
    )
    return [pool[np.lexsort((pool, -line))[:k]].tolist() for line in every]


@st.composite
def adversarial(draw: st.DrawFn, metric: Metric) -> np.ndarray:
    """Draws `[n, d] float32`, prepared: of any scale, with huge components, copies and denormals."""
    count, dimension = draw(st.integers(1, 70)), draw(st.sampled_from([1, 2, 3, 16, 33, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    few = draw(st.booleans())
    wide = rng.integers(-2, 3, (count, dimension)) if few else rng.normal(size=(count, dimension))
    scale = rng.choice(draw(st.lists(st.sampled_from(SCALES), min_size=1, max_size=3)), size=count)
    vectors = (wide * scale[:, None]).astype(np.float32)
    if draw(st.booleans()):  # all far from the origin
        vectors += np.float32(rng.choice([10.0, 1e4, 1e15]))
    for row in rng.integers(0, count, draw(st.integers(0, 3))):
        vectors[row, rng.integers(0, dimension)] = rng.choice([1e17, -1e17, 1e-45, 1e5])
    for row in rng.integers(0, count, draw(st.integers(0, 5))):
        vectors[row] = vectors[0]
    if metric is Metric.COSINE:
        vectors[~vectors.any(axis=1), 0] = 1.0
    return prepared(vectors, metric)


@settings(deadline=None, max_examples=100)
@given(
    data=st.data(),
    metric=st.sampled_from(list(Metric)),
    places=st.sampled_from(PLACES),
    few_left=st.sampled_from([0, 1024]),
)
def test_the_answers_are_those_of_the_vectors_to_the_last_bit(
    data: st.DataObject, metric: Metric, places: RowPlaces, few_left: int
) -> None:
    vectors = data.draw(adversarial(metric))
    count = len(vectors)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    queries = vectors[rng.integers(0, count, data.draw(st.integers(1, 6)))]
    if data.draw(st.booleans()):
        queries = prepared(
            queries * np.float32(rng.choice([1e-6, 0.5, 3.0])) + np.float32(rng.choice([0.0, 0.25])), Metric.DOT
        )
        queries[~queries.any(axis=1), 0] = 1.0
        queries = prepared(queries, metric)
    both = pair(vectors, metric, places=places)
    dead = rng.integers(0, count, data.draw(st.integers(0, count // 2)))
    for index in both:
        index.remove(dead)
    allowed = (rng.random(count) < data.draw(st.sampled_from([0.1, 0.5, 1.0]))) & both[0].view.alive
    start, k = data.draw(st.integers(0, count)), data.draw(st.integers(1, count + 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_FEW_LEFT", few_left)
        for among, mask, pool in (
            (slice(None), None, np.flatnonzero(both[0].view.alive)),
            (slice(start, None), allowed, start + np.flatnonzero(allowed[start:])),
            (np.arange(start, count, 2), allowed, np.arange(start, count, 2)[allowed[start::2]]),
        ):
            rough, plain = (one.view.nearest(queries, k, among=among, allowed=mask) for one in both)
            assert bits(rough) == bits(plain)
            assert [one.rows.tolist() for one in plain] == truth(both[1].view, queries, k, pool)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_vector_is_farther_from_its_codes_than_it_is_said_to_be(data: st.DataObject) -> None:
    vectors = data.draw(adversarial(Metric.DOT))
    codes, scales, lost = quantised(vectors)
    assert codes.min() >= -127
    back = codes.astype(np.float64) * scales.astype(np.float64)[:, None]
    assert (np.linalg.norm(vectors.astype(np.float64) - back, axis=1) <= lost).all()


def test_codes_worked_by_hand() -> None:
    codes, scales, lost = quantised(np.array([[127, -64, 0.25], [0, 0, 0], [0, 0, 1e-45]], np.float32))
    assert codes.tolist() == [[127, -64, 0], [0, 0, 0], [0, 0, 0]]
    assert scales.tolist() == [1, 0, 0]
    assert lost == pytest.approx([0.25, 0, 0], rel=1e-6, abs=1e-44)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("asked", [1, 40])
def test_few_vectors_are_looked_at(metric: Metric, asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors, queries = (prepared(rng.normal(size=(n, 64)).astype(np.float32), metric) for n in (5000, asked))
    copied, plain = pair(vectors, metric)
    read: list[int] = []
    before = ExactView.score

    def counted(view: ExactView, one: np.ndarray, rows: np.ndarray) -> np.ndarray:
        read.append(rows.size)
        return before(view, one, rows)

    expected = plain.view.nearest(queries, 10)
    monkeypatch.setattr(ExactView, "score", counted)
    assert bits(copied.view.nearest(queries, 10)) == bits(expected)
    assert asked * 10 <= sum(read) < asked * 50


def test_what_the_copy_leaves_too_many_of_is_chosen_among_by_the_vectors() -> None:
    # All in one direction, and apart by less than a code.
    rng = np.random.default_rng(2)
    vectors = (100 + 0.1 * rng.normal(size=(4000, 32))).astype(np.float32)
    copied, plain = pair(vectors, Metric.EUCLIDEAN)
    assert bits(copied.view.nearest(vectors[:9], 10)) == bits(plain.view.nearest(vectors[:9], 10))


def test_a_long_scan_in_steps_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(1000, 16)).astype(np.float32)
    allowed = rng.random(1000) < 0.3
    copied, plain = pair(vectors, Metric.EUCLIDEAN)
    whole = bits(plain.view.nearest(vectors[:9], 12, allowed=allowed))
    monkeypatch.setattr(exact, "_BLOCK_BYTES", 4 * 16 * 37)
    assert bits(copied.view.nearest(vectors[:9], 12, allowed=allowed)) == whole


def test_vectors_that_a_query_is_far_from_come_in_the_order_of_writing() -> None:
    # As float32 all distances are 1e6.
    vectors = np.random.default_rng(3).normal(size=(50, 3)).astype(np.float32) * np.float32(1e-3)
    query = np.array([[1e6, 0, 0]], np.float32)
    for index in pair(vectors, Metric.EUCLIDEAN):
        assert index.search(query, 5).tolist() == [[0, 1, 2, 3, 4]]


def test_without_room_on_the_disk_the_vectors_are_scanned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = np.random.default_rng(4).normal(size=(100, 8)).astype(np.float32)
    index = ExactIndex(8, Metric.DOT, capacity=60, places=PLACES[0])
    index.add(np.arange(50), vectors[:50])
    before = index.view
    assert before.int8 is not None

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    index.add(np.arange(50, 100), vectors[50:])
    assert "No space left on device" in caplog.text
    assert index.view.int8 is None
    plain = ExactIndex(8, Metric.DOT)
    plain.add(np.arange(100), vectors)
    assert bits(index.view.nearest(vectors[:5], 7)) == bits(plain.view.nearest(vectors[:5], 7))
    assert bits(before.nearest(vectors[:5], 7)) == bits(plain.view.nearest(vectors[:5], 7, among=slice(0, 50)))
