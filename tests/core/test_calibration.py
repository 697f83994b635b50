import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinsight_core.calibration import (
    Calibration,
    ScoredPairs,
    expected_calibration_error,
    fit_calibration,
    fit_logistic,
)
from twinsight_core.json_fields import JsonFields

EXAMPLE = Calibration(
    meaning="The two are the same.",
    scale=10.0,
    offset=-5.0,
    threshold=0.5,
    false_match_rate=0.01,
    false_non_match_rate=0.02,
    expected_calibration_error=0.03,
    pairs_fitted=100,
    pairs_measured=200,
)


def logistic_pairs(count: int, *, seed: int, scale: float = 12.0, offset: float = -6.0) -> ScoredPairs:
    """Pairs whose truth is drawn from a known curve."""
    rng = np.random.default_rng(seed)
    cosine = rng.uniform(-0.2, 1.0, count)
    return ScoredPairs(cosine=cosine, same=rng.uniform(size=count) < 1 / (1 + np.exp(-(scale * cosine + offset))))


def test_probability_is_one_half_where_the_curve_crosses_zero() -> None:
    np.testing.assert_allclose(
        EXAMPLE.probability(np.array([0.5, 1.0, 0.0])), [0.5, 1 / (1 + np.exp(-5)), 1 / (1 + np.exp(5))]
    )


def test_a_pair_at_the_threshold_is_the_same() -> None:
    np.testing.assert_array_equal(EXAMPLE.same(np.array([0.49, 0.5, 0.51])), [False, True, True])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_probability_rises_with_the_cosine_and_stays_within_bounds(cosines: list[float]) -> None:
    probability = EXAMPLE.probability(np.sort(np.array(cosines)))
    assert ((probability >= 0) & (probability <= 1)).all()
    assert (np.diff(probability) >= 0).all()


def test_extreme_curves_do_not_overflow() -> None:
    steep = replace(EXAMPLE, scale=1e6, offset=0.0)
    np.testing.assert_array_equal(steep.probability(np.array([-1.0, 1.0])), [0.0, 1.0])


def test_the_fit_finds_the_curve_that_made_the_pairs() -> None:
    scale, offset = fit_logistic(logistic_pairs(20_000, seed=0))
    assert scale == pytest.approx(12.0, rel=0.05)
    assert offset == pytest.approx(-6.0, rel=0.05)


def test_the_fit_stays_finite_where_pairs_separate() -> None:
    pairs = ScoredPairs(cosine=np.array([0.1, 0.2, 0.8, 0.9]), same=np.array([False, False, True, True]))
    scale, offset = fit_logistic(pairs)
    assert np.isfinite([scale, offset]).all()
    assert scale > 0
    assert -offset / scale == pytest.approx(0.5, abs=0.01)


def test_calibration_error_worked_by_hand() -> None:
    # Two bins: {0.2, 0.4} with one same of two, {0.9} with none: |0.6 - 1| + |0.9 - 0| over three pairs.
    error = expected_calibration_error(np.array([0.2, 0.4, 0.9]), np.array([True, False, False]), bins=2)
    assert error == pytest.approx((0.4 + 0.9) / 3)


def test_a_fit_on_enough_pairs_is_calibrated_on_others() -> None:
    calibration = fit_calibration(
        fit=logistic_pairs(10_000, seed=1),
        measure=logistic_pairs(10_000, seed=2),
        meaning="Same.",
        false_match_rate=0.01,
    )
    assert calibration.expected_calibration_error < 0.03
    assert calibration.false_match_rate == pytest.approx(0.01, abs=0.01)
    assert (calibration.pairs_fitted, calibration.pairs_measured) == (10_000, 10_000)


def test_rates_and_threshold_worked_by_hand() -> None:
    fit = ScoredPairs(
        cosine=np.array([0.1, 0.2, 0.3, 0.6, 0.5, 0.7, 0.8, 0.9]), same=np.array([False] * 4 + [True] * 4)
    )
    measure = ScoredPairs(cosine=np.array([0.0, 0.55, 0.65, 0.2, 0.65, 0.95]), same=np.array([False] * 4 + [True] * 2))
    strict = fit_calibration(fit=fit, measure=measure, meaning="Same.", false_match_rate=0.0)
    # None of the four different pairs may pass: just above the highest of them, 0.6.
    assert strict.threshold == pytest.approx(0.6)
    assert not strict.same(np.array([0.6]))[0]
    assert strict.false_match_rate == 0.25
    assert strict.false_non_match_rate == 0.0
    loose = fit_calibration(fit=fit, measure=measure, meaning="Same.", false_match_rate=1.0)
    # Any may pass: then the even odds decide.
    assert loose.probability(np.array([loose.threshold]))[0] == pytest.approx(0.5)


def test_a_cosine_that_says_the_opposite_is_refused() -> None:
    pairs = ScoredPairs(cosine=np.array([0.9, 0.8, 0.2, 0.1]), same=np.array([False, False, True, True]))
    with pytest.raises(ValueError, match=r"must be above 0: same pairs are no closer than others\.$"):
        fit_calibration(fit=pairs, measure=pairs, meaning="Same.", false_match_rate=0.01)


@pytest.mark.parametrize(
    ("cosine", "same", "message"),
    [
        ([0.1, 0.2], [True, True], "`same` must hold pairs of both kinds."),
        ([0.1, np.nan], [True, False], "`cosine` must be finite."),
        ([0.1], [True, False], "`cosine` (1,) and `same` (2,) must be [count]."),
    ],
)
def test_pairs_that_say_nothing_are_refused(cosine: list[float], same: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ScoredPairs(cosine=np.array(cosine), same=np.array(same))


def test_a_calibration_survives_json() -> None:
    fields = JsonFields(EXAMPLE.to_json(), names=Calibration.__dataclass_fields__)
    assert Calibration.from_json(fields) == EXAMPLE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": -1.0}, "`scale` (=-1.0) must be above 0: a higher cosine is a likelier match."),
        ({"offset": float("inf")}, "`offset` (=inf) must be a finite number."),
        ({"threshold": 1.5}, "`threshold` (=1.5) must lie in -1..1."),
        ({"false_match_rate": 2.0}, "`false_match_rate` (=2.0) must lie in 0..1."),
        ({"pairs_fitted": -1}, "`pairs_fitted` (=-1) must be an integer in 0..9007199254740992."),
        ({"meaning": ""}, "`meaning` must say what the probability is of."),
    ],
)
def test_a_wrong_value_names_its_rule(change: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Calibration.from_json(JsonFields(EXAMPLE.to_json() | change))
