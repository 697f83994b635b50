from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from twinsight_core.search import fingerprints
from twinsight_core.search.fingerprints import MOST_ALIVE, MOST_EQUAL, Fingerprints, fingerprints_of


def test_equal_vectors_have_equal_fingerprints_and_others_do_not() -> None:
    vectors = np.random.default_rng(0).normal(size=(5000, 7)).astype(np.float32)
    vectors[4999] = vectors[0]
    marks = fingerprints_of(vectors)
    assert len(np.unique(marks)) == 4999
    assert marks[4999] == marks[0]


@pytest.mark.parametrize("recent", [0, 3, 4096])
def test_of_equal_ones_a_few_are_alive_and_a_few_more_are_there(recent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_RECENT", recent)
    rng = np.random.default_rng(1)
    alive, points = Counter[int](), Counter[int]()
    known = Fingerprints()
    for _ in range(300):
        some = rng.integers(0, 300, rng.integers(0, 60)).astype(np.uint64) << np.uint64(55)
        expected = []
        for one in some.tolist():
            expected.append(alive[one] < MOST_ALIVE and points[one] < MOST_EQUAL)
            if expected[-1]:
                alive[one] += 1
                points[one] += 1
        assert known.added(some).tolist() == expected
        gone = rng.integers(0, 300, rng.integers(0, 40)).astype(np.uint64) << np.uint64(55)
        known.removed(gone)
        for one in gone.tolist():
            alive[one] = max(0, alive[one] - 1)
        assert len(known) == len(+points)
    assert max(points.values()) == MOST_EQUAL


@pytest.mark.parametrize("has_dead", [False, True])
def test_of_a_graph_whose_dead_are_not_known_one_more_of_each_may_come_in(*, has_dead: bool) -> None:
    known = Fingerprints()
    held = np.repeat(np.arange(3, dtype=np.uint64), 2)
    known.restored(held, has_dead=has_dead)
    more = [known.added(np.arange(3, dtype=np.uint64)).all() for _ in range(3)]
    assert more == [True, not has_dead, False]
    known.removed(held)
    assert known.added(np.arange(3, dtype=np.uint64)).all() != has_dead
