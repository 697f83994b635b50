from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.models.rcnn.boxes import intersection_over_union
from twinsight_core.models.rcnn.nms import non_maximum_suppression

COUNT = 24


def greedy(boxes: np.ndarray, scores: np.ndarray, valid: np.ndarray, threshold: float, groups: np.ndarray) -> list[int]:
    """One box after the other, best first."""
    overlap = np.asarray(intersection_over_union(jnp.asarray(boxes), jnp.asarray(boxes)))
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable").tolist():
        rivals = [one for one in kept if groups[one] == groups[place]]
        if valid[place] and not any(overlap[one, place] > threshold for one in rivals):
            kept.append(place)
    return kept


compiled: Callable[..., tuple[jax.Array, jax.Array]] = jax.jit(
    non_maximum_suppression, static_argnames=("threshold", "count")
)


def places(found: tuple[jax.Array, jax.Array]) -> list[int]:
    where, there = (np.asarray(one) for one in found)
    assert not there[np.argmin(there) :].any() or there.all()
    assert (where[~there] == 0).all()
    return [int(one) for one in where[there]]


def test_a_box_that_only_a_suppressed_one_overlaps_stays() -> None:
    # A chain along x: the first overlaps the second by a half, the second the third, the first not the third.
    boxes = jnp.array([[0.0, 0, 3, 1], [1, 0, 4, 1], [2, 0, 5, 1], [20, 0, 23, 1]])
    scores, valid = jnp.array([0.9, 0.8, 0.7, 0.95]), jnp.ones(4, bool)
    # 0 and 1 share 2 of 4, 0 and 2 share 1 of 5.
    assert places(compiled(boxes, scores, valid, threshold=0.4, count=4)) == [3, 0, 2]
    assert places(compiled(boxes, scores, valid, threshold=0.1, count=4)) == [3, 0]
    assert places(compiled(boxes, scores, valid, threshold=0.6, count=3)) == [3, 0, 1]


def test_what_is_not_there_neither_is_kept_nor_suppresses() -> None:
    boxes = jnp.tile(jnp.array([0.0, 0, 4, 4]), (3, 1))
    found = compiled(boxes, jnp.array([0.9, 0.8, 0.7]), jnp.array([False, True, True]), threshold=0.5, count=3)
    assert places(found) == [1]


def test_groups_do_not_suppress_each_other() -> None:
    boxes = jnp.tile(jnp.array([0.0, 0, 4, 4]), (4, 1))
    groups = jnp.array([0, 1, 0, 1])
    found = compiled(boxes, jnp.array([0.6, 0.9, 0.7, 0.8]), jnp.ones(4, bool), threshold=0.5, count=4, groups=groups)
    assert places(found) == [1, 2]


def test_more_may_be_asked_for_than_there_are() -> None:
    where, there = compiled(jnp.array([[0.0, 0, 4, 4]]), jnp.ones(1), jnp.ones(1, bool), threshold=0.5, count=3)
    assert where.tolist() == [0, 0, 0]
    assert there.tolist() == [True, False, False]


@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.3, 0.5, 0.7]), st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_it_is_the_greedy_one(seed: int, threshold: float, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 12, (COUNT, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 10, (COUNT, 2))], axis=1).astype(np.float32)
    # Few distinct scores: equal ones are kept in order.
    scores = (rng.integers(0, 8, COUNT) / 8).astype(np.float32)
    valid, groups = rng.random(COUNT) < 0.8, rng.integers(0, kinds, COUNT)
    arrays = [jnp.asarray(one) for one in (boxes, scores, valid)]
    found = compiled(*arrays, threshold=threshold, count=COUNT, groups=jnp.asarray(groups))
    assert places(found) == greedy(boxes, scores, valid, threshold, groups)


def test_a_long_chain_is_followed_to_its_end() -> None:
    start = np.arange(200, dtype=np.float32)
    boxes = np.stack([start, 0 * start, start + 3, 0 * start + 1], axis=1)
    found = compiled(jnp.asarray(boxes), jnp.asarray(-start), jnp.ones(200, bool), threshold=0.4, count=200)
    assert places(found) == list(range(0, 200, 2))


def test_pictures_of_a_batch_do_not_mix() -> None:
    rng = np.random.default_rng(3)
    boxes = np.sort(rng.uniform(0, 30, (5, COUNT, 2, 2)), axis=2).reshape(5, COUNT, 4).astype(np.float32)
    scores, valid = rng.random((5, COUNT)).astype(np.float32), rng.random((5, COUNT)) < 0.9
    run = jax.jit(jax.vmap(partial(non_maximum_suppression, threshold=0.3, count=COUNT)))
    where, there = run(jnp.asarray(boxes), jnp.asarray(scores), jnp.asarray(valid))
    for row in range(5):
        expected = greedy(boxes[row], scores[row], valid[row], 0.3, np.zeros(COUNT))
        assert places((where[row], there[row])) == expected
