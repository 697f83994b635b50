from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from twinsight_core.search import fingerprints
from twinsight_core.search.fingerprints import MOST_EQUAL, Fingerprints, fingerprints_of


def test_equal_vectors_have_equal_fingerprints_and_others_do_not() -> None:
    vectors = np.random.default_rng(0).normal(size=(5000, 7)).astype(np.float32)
    vectors[4999] = vectors[0]
    marks = fingerprints_of(vectors)
    assert len(np.unique(marks)) == 4999
    assert marks[4999] == marks[0]


@pytest.mark.parametrize("recent", [0, 3, 4096])
@pytest.mark.parametrize("most_equal", [2, MOST_EQUAL])
def test_of_equal_ones_one_is_alive_and_a_few_are_there(
    recent: int, most_equal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "_RECENT", recent)
    rng = np.random.default_rng(1)
    alive, points = set[int](), Counter[int]()
    known = Fingerprints(most_equal=most_equal)
    for _ in range(300):
        some = rng.integers(0, 300, rng.integers(0, 40)).astype(np.uint64) << np.uint64(55)
        expected = []
        for one in some.tolist():
            expected.append(one not in alive and points[one] < most_equal)
            if expected[-1]:
                alive.add(one)
                points[one] += 1
        assert known.added(some).tolist() == expected
        gone = rng.integers(0, 300, rng.integers(0, 40)).astype(np.uint64) << np.uint64(55)
        known.removed(gone)
        alive -= set(gone.tolist())
        assert len(known) == len(+points)
    assert max(points.values()) == most_equal
