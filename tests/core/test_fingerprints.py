from __future__ import annotations

import numpy as np
import pytest

from twinsight_core import fingerprints
from twinsight_core.fingerprints import Fingerprints, fingerprints_of


def test_equal_vectors_have_equal_fingerprints_and_others_do_not() -> None:
    vectors = np.random.default_rng(0).normal(size=(5000, 7)).astype(np.float32)
    vectors[4999] = vectors[0]
    marks = fingerprints_of(vectors)
    assert len(np.unique(marks)) == 4999
    assert marks[4999] == marks[0]


@pytest.mark.parametrize("recent", [0, 3, 4096])
def test_each_is_new_once_however_they_come(recent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_RECENT", recent)
    rng = np.random.default_rng(1)
    seen: set[int] = set()
    known = Fingerprints()
    for _ in range(60):
        some = rng.integers(0, 300, rng.integers(0, 40)).astype(np.uint64) << np.uint64(55)
        expected = []
        for one in some.tolist():
            expected.append(one not in seen)
            seen.add(one)
        assert known.added(some).tolist() == expected
        assert len(known) == len(seen)
