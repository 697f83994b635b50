from __future__ import annotations

import math

import numpy as np
import pytest

from twinsight_core.calibration import Calibration, OperatingPoint
from twinsight_core.comparison import Decision, compare, decision_for
from twinsight_core.errors import FailedPrecondition, InvalidInput


def operating_point(target_fmr: float, threshold: float) -> OperatingPoint:
    return OperatingPoint(target_fmr, threshold, *(0.0, 0.0, 0.1), *(0.2, 0.1, 0.3))


CALIBRATION = Calibration(
    meaning="the same",
    scale=10.0,
    offset=-5.0,
    threshold=0.6,
    false_match_rate=0.02,
    false_non_match_rate=0.3,
    expected_calibration_error=0.0,
    pairs_fitted=1,
    pairs_measured=1,
    operating_points=(operating_point(0.1, 0.4), operating_point(0.01, 0.7)),
)


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
    # Cosines 0.5 and 1: logistic(10 x 0.5 - 5) = 0.5, logistic(10 - 5) = 0.9933.
    half, whole = compare([vector(1, 0)] * 2, [vector(0.5, math.sqrt(0.75)), vector(1, 0)], CALIBRATION)
    assert half.probability == pytest.approx(0.5, abs=1e-6)
    assert whole.probability == pytest.approx(0.99331, abs=1e-5)
    assert (half.same, whole.same) == (False, True)
    assert half.decision == whole.decision == Decision(0.6, None, 0.02, 0.3)


@pytest.mark.parametrize(
    ("target_fmr", "decision", "same"),
    [
        # Of cosines 0.4, 0.6 and 0.7.
        (None, Decision(0.6, None, 0.02, 0.3), [False, True, True]),
        (1.0, Decision(0.4, 0.1, 0.0, 0.2), [True, True, True]),
        (0.1, Decision(0.4, 0.1, 0.0, 0.2), [True, True, True]),
        (0.05, Decision(0.7, 0.01, 0.0, 0.2), [False, False, True]),
        (0.01, Decision(0.7, 0.01, 0.0, 0.2), [False, False, True]),
    ],
)
def test_a_false_match_rate_moves_the_decision(target_fmr: float | None, decision: Decision, same: list[bool]) -> None:
    found = decision_for(CALIBRATION, target_fmr)
    assert found == decision
    # Just above, for float32 does not hold these numbers.
    others = [vector(c + 1e-6, math.sqrt(1 - c**2)) for c in (0.4, 0.6, 0.7)]
    compared = compare([vector(1, 0)] * 3, others, CALIBRATION, found)
    assert [one.same for one in compared] == same
    assert {one.decision for one in compared} == {decision}


@pytest.mark.parametrize("target_fmr", [0.0, -1.0, 1.5, math.nan])
def test_a_false_match_rate_out_of_range_is_refused(target_fmr: float) -> None:
    with pytest.raises(InvalidInput, match="must be above 0 and at most 1") as caught:
        decision_for(CALIBRATION, target_fmr)
    assert (caught.value.reason, caught.value.field) == ("TARGET_FMR_INVALID", "target_fmr")


def test_a_false_match_rate_below_all_points_is_refused_and_they_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"operating points: 0\.1, 0\.01\.$") as caught:
        decision_for(CALIBRATION, 0.001)
    assert caught.value.reason == "TARGET_FMR_UNKNOWN"


def test_without_a_calibration_nothing_is_decided() -> None:
    assert decision_for(None) is None
    with pytest.raises(FailedPrecondition, match="the model has no calibration") as caught:
        decision_for(None, 0.1)
    assert caught.value.reason == "MODEL_NOT_CALIBRATED"


def test_no_pairs_give_no_comparisons() -> None:
    assert compare([], [], None) == []
