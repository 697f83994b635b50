from __future__ import annotations

import math

import numpy as np
import pytest

from twinsight_core.calibration import Calibration
from twinsight_core.comparison import compare


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_a_right_angle_has_cosine_0_and_distance_root_2() -> None:
    (one,) = compare([vector(1, 0)], [vector(0, 1)], None)
    assert one.cosine_similarity == 0
    assert one.euclidean_distance == pytest.approx(math.sqrt(2))
    assert (one.probability, one.same) == (None, None)


def test_length_does_not_count() -> None:
    (one,) = compare([vector(3, 4)], [vector(30, 40)], None)
    assert one.cosine_similarity == pytest.approx(1)
    assert one.euclidean_distance == pytest.approx(0, abs=1e-7)


def test_a_vector_is_at_distance_0_from_itself() -> None:
    rng = np.random.default_rng(0)
    vectors = list(rng.normal(size=(50, 256)).astype(np.float32))
    for one in compare(vectors, vectors, None):
        assert one.euclidean_distance == 0
        assert one.cosine_similarity == pytest.approx(1, abs=1e-12)


def test_the_calibration_gives_probability_and_decision() -> None:
    calibration = Calibration(
        meaning="the same",
        scale=10.0,
        offset=-5.0,
        threshold=0.6,
        false_match_rate=0.0,
        false_non_match_rate=0.0,
        expected_calibration_error=0.0,
        pairs_fitted=1,
        pairs_measured=1,
    )
    # Cosines 0.5 and 1: logistic(10 x 0.5 - 5) = 0.5, logistic(10 - 5) = 0.9933.
    half, whole = compare([vector(1, 0)] * 2, [vector(0.5, math.sqrt(0.75)), vector(1, 0)], calibration)
    assert half.probability == pytest.approx(0.5, abs=1e-6)
    assert whole.probability == pytest.approx(0.99331, abs=1e-5)
    assert (half.same, whole.same) == (False, True)


def test_no_pairs_give_no_comparisons() -> None:
    assert compare([], [], None) == []
