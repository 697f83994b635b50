"""The copy on a device finds what the host finds; here the device is whatever JAX has."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from twinsight_core.index import exact
from twinsight_core.index.base import Metric, prepared
from twinsight_core.index.device import DeviceCopy
from twinsight_core.index.exact import ExactIndex, ExactView, Found

DIMENSION = 24
BLOCK = 128 * 64


def vectors(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


def pair(metric: Metric, rows: np.ndarray) -> tuple[ExactIndex, ExactIndex]:
    """An index with a copy on the device and one without, of the same rows, added in three steps."""
    copy = DeviceCopy(DIMENSION, metric, block_rows=BLOCK, least_rows=2000, step_rows=1)
    both = ExactIndex(DIMENSION, metric, device=copy), ExactIndex(DIMENSION, metric)
    for index in both:
        for part in np.array_split(np.arange(len(rows)), 3):
            index.add(part, prepared(rows[part], metric))
            copy.wait_copied()
    return both


def same(left: list[Found], right: list[Found]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.scores, other.scores)


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of queries that a search did on the host."""
    done: list[int] = []
    before = ExactView._nearest_here

    def counted(view: ExactView, queries: np.ndarray, *rest: object) -> list[Found]:
        if view.device is not None:
            done.append(len(queries))
        return before(view, queries, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(exact.ExactView, "_nearest_here", counted)
    return done


@pytest.mark.parametrize("metric", [Metric.EUCLIDEAN, Metric.DOT])
def test_among_many_that_bfloat16_can_not_tell_apart_float64_decides(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "_FEW_LEFT", 1)
    rng = np.random.default_rng(3)
    rows = vectors(20_000)
    alike = rng.choice(len(rows), 40, replace=False)
    rows[alike] = 3 * rows[0] + rng.normal(0, 1e-3, (40, DIMENSION)).astype(np.float32)
    with_copy, without = pair(metric, rows)
    same(with_copy.view.nearest(3 * rows[:1], 3), without.view.nearest(3 * rows[:1], 3))


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("queries", [1, 5, 70])
def test_it_finds_what_the_host_finds(metric: Metric, queries: int, on_host: list[int]) -> None:
    with_copy, without = pair(metric, vectors(20_000))
    asked = prepared(vectors(queries, seed=1), metric)
    same(with_copy.view.nearest(asked, 10), without.view.nearest(asked, 10))
    assert sum(on_host) <= queries // 10, "the device is there to be used"


@pytest.mark.parametrize("metric", list(Metric))
def test_removed_rows_and_those_that_a_filter_leaves_out_are_not_found(metric: Metric) -> None:
    rows = vectors(9000)
    with_copy, without = pair(metric, rows)
    asked = prepared(rows[:3], metric)
    for index in (with_copy, without):
        index.remove(np.array([0, 2, 17]))
    found = with_copy.view.nearest(asked, 5)
    same(found, without.view.nearest(asked, 5))
    assert found[1].rows[0] == 1
    allowed = with_copy.view.alive & (np.arange(9000) % 3 == 1)
    same(with_copy.view.nearest(asked, 40, allowed=allowed), without.view.nearest(asked, 40, allowed=allowed))


def test_a_narrow_filter_is_searched_on_the_host(on_host: list[int]) -> None:
    with_copy, without = pair(Metric.COSINE, vectors(3000))
    allowed = np.arange(3000) % 2 == 0
    asked = prepared(vectors(2, seed=1), Metric.COSINE)
    same(with_copy.view.nearest(asked, 4, allowed=allowed), without.view.nearest(asked, 4, allowed=allowed))
    assert on_host == [2]


@pytest.mark.parametrize("metric", list(Metric))
def test_rows_that_are_not_copied_yet_are_found_too(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    with_copy, without = pair(metric, vectors(4000))
    monkeypatch.setattr(DeviceCopy, "extend", lambda *_: None)
    more = prepared(vectors(500, seed=5), metric)
    for index in (with_copy, without):
        index.add(np.arange(4000, 4500), more)
    asked = prepared(np.concatenate([more[:3], vectors(3)]), metric)
    found = with_copy.view.nearest(asked, 6)
    same(found, without.view.nearest(asked, 6))
    if metric is not Metric.DOT:
        assert [one.rows[0] for one in found] == [4000, 4001, 4002, 0, 1, 2]


@pytest.mark.parametrize("step", ["_asked", "_with_more"])
def test_an_accelerator_that_fails_is_done_without(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    if step == "_with_more":
        monkeypatch.setattr(DeviceCopy, step, full)
    with_copy, without = pair(Metric.COSINE, vectors(3000))
    monkeypatch.setattr(DeviceCopy, step, full)
    asked = prepared(vectors(2, seed=1), Metric.COSINE)
    for _ in range(2):
        same(with_copy.view.nearest(asked, 3), without.view.nearest(asked, 3))
    with_copy.add(np.array([3000]), asked[:1])
    assert with_copy.view.nearest(asked[:1], 1)[0].rows[0] == 3000
    assert caplog.text.count("out of memory") == 1


def test_fewer_rows_than_asked_for_are_all_that_is_found() -> None:
    with_copy, _ = pair(Metric.COSINE, vectors(3000))
    allowed = np.zeros(3000, np.bool_)
    allowed[[5, 2900]] = True
    (found,) = with_copy.view.nearest(prepared(vectors(1, seed=2), Metric.COSINE), 10, allowed=allowed)
    assert sorted(found.rows.tolist()) == [5, 2900]


def test_rows_that_rounding_cannot_tell_apart_are_decided_on_the_host(on_host: list[int]) -> None:
    rows = np.repeat(vectors(1), 5000, axis=0)
    rows[4321] += 1e-4 * rows[4321]  # in bfloat16 the same
    with_copy, without = pair(Metric.DOT, rows)
    asked = prepared(rows[:1], Metric.DOT)
    same(with_copy.view.nearest(asked, 3), without.view.nearest(asked, 3))
    assert with_copy.view.nearest(asked, 3)[0].rows[0] == 4321
    assert on_host


def test_vectors_beyond_its_range_are_searched_on_the_host(on_host: list[int]) -> None:
    with_copy, without = pair(Metric.EUCLIDEAN, vectors(3000) * np.float32(1e18))
    asked = vectors(1, seed=1) * np.float32(1e18)
    same(with_copy.view.nearest(asked, 3), without.view.nearest(asked, 3))
    assert on_host


def test_a_view_from_before_does_not_see_what_came_after() -> None:
    with_copy, _ = pair(Metric.COSINE, vectors(3000))
    before = with_copy.view
    new = prepared(vectors(1, seed=9), Metric.COSINE)
    with_copy.add(np.array([3000]), new)
    assert with_copy.view.nearest(new, 1)[0].rows[0] == 3000
    assert before.nearest(new, 1)[0].rows[0] != 3000


def test_few_rows_are_not_copied(on_host: list[int]) -> None:
    with_copy, without = pair(Metric.COSINE, vectors(100))
    asked = prepared(vectors(2, seed=1), Metric.COSINE)
    same(with_copy.view.nearest(asked, 3), without.view.nearest(asked, 3))
    assert on_host == [2]
