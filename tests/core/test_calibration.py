import json
import math
import re
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinsight_core.calibration import (
    Calibration,
    OperatingPoint,
    ScoredPairs,
)
from twinsight_core.errors import InvalidInput
from twinsight_core.evaluation.fitting import (
    calibration_error,
    cross_fit_calibration,
    expected_calibration_error,
    fit_calibration,
    fit_logistic,
    leave_one_out,
    measured_loss,
)
from twinsight_core.evaluation.intervals import wilson_interval
from twinsight_core.json_fields import JsonFields
from twinsight_core.packages import shipped_packages

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

LOOSE = OperatingPoint(
    target_fmr=0.1,
    threshold=0.3,
    false_match_rate=0.09,
    false_match_rate_low=0.08,
    false_match_rate_high=0.11,
    false_non_match_rate=0.02,
    false_non_match_rate_low=0.01,
    false_non_match_rate_high=0.03,
)
STRICT = replace(LOOSE, target_fmr=0.01, threshold=0.6, false_match_rate=0.02, false_match_rate_low=0.01)
WITH_POINTS = replace(
    EXAMPLE,
    false_match_rate_low=0.005,
    false_match_rate_high=0.02,
    false_non_match_rate_low=0.01,
    false_non_match_rate_high=0.03,
    operating_points=(LOOSE, STRICT),
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


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_probability_rises_with_the_cosine_and_stays_within_bounds(cosines: list[float]) -> None:
    probability = EXAMPLE.probability(np.sort(np.array(cosines)))
    assert ((probability >= 0) & (probability <= 1)).all()
    assert (np.diff(probability) >= 0).all()


def test_extreme_curves_do_not_overflow() -> None:
    steep = replace(EXAMPLE, scale=1e6, offset=0.0)
    np.testing.assert_array_equal(steep.probability(np.array([-1.0, 1.0])), [0.0, 1.0])


def test_the_fit_finds_the_curve_that_made_the_pairs() -> None:
    pairs = logistic_pairs(20_000, seed=0)
    scale, offset = fit_logistic(pairs)
    assert scale == pytest.approx(12.0, rel=0.05)
    # The curve is at even odds; of these pairs fewer are the same.
    assert offset + np.log(pairs.same.sum() / (~pairs.same).sum()) == pytest.approx(-6.0, rel=0.05)


def test_a_probability_does_not_hang_on_how_many_pairs_there_are_of_each_kind() -> None:
    even = far_apart(4000, seed=3)
    # A tenth of the same pairs: as where few pictures of each class were held out.
    kept = np.flatnonzero(~even.same | (np.arange(8000) % 10 == 0))
    rare = ScoredPairs(cosine=even.cosine[kept], same=even.same[kept])
    of_even, of_rare = (
        fit_calibration(fit=one, measure=one, meaning="Same.", false_match_rate=0.01) for one in (even, rare)
    )
    cosine = np.linspace(0.2, 0.6, 9)
    np.testing.assert_allclose(of_rare.probability(cosine), of_even.probability(cosine), atol=0.06)
    assert of_rare.expected_calibration_error < 0.02


def test_calibration_error_with_weights_worked_by_hand() -> None:
    # The last pair stands for two: |0.6 - 1| + 2 x |0.9 - 0| over four.
    probability, same = np.array([0.2, 0.4, 0.9]), np.array([True, False, False])
    error = expected_calibration_error(probability, same, bins=2, weights=np.array([1.0, 1.0, 2.0]))
    assert error == pytest.approx((0.4 + 2 * 0.9) / 4)


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
    assert strict.threshold > 0.6
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
        ([0.1, 0.2], [True, True], "`same` must have pairs of both kinds."),
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


@pytest.mark.parametrize(
    ("asked", "point"),
    [(1.0, LOOSE), (0.1, LOOSE), (1 - 0.9, LOOSE), (0.05, STRICT), (float(np.float32(0.01)), STRICT)],
)
def test_the_point_keeps_to_the_asked_rate_and_loses_the_fewest(asked: float, point: OperatingPoint) -> None:
    assert WITH_POINTS.operating_point(asked) == point


@pytest.mark.parametrize(
    ("calibration", "asked", "message"),
    [
        (
            WITH_POINTS,
            0.001,
            "`target_fmr` (=0.001) must be at least that of one of the model's operating points: 0.1, 0.01.",
        ),
        (
            WITH_POINTS,
            0.0099999,
            "`target_fmr` (=0.0099999) must be at least that of one of the model's operating points: 0.1, 0.01.",
        ),
        (
            EXAMPLE,
            0.1,
            "`target_fmr` (=0.1) must be at least that of one of the model's operating points: it has none.",
        ),
        (WITH_POINTS, 0.0, "`target_fmr` (=0.0) must be above 0 and at most 1."),
        (WITH_POINTS, float("nan"), "`target_fmr` (=nan) must be above 0 and at most 1."),
    ],
)
def test_a_rate_that_no_point_keeps_to_is_refused(calibration: Calibration, asked: float, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{re.escape(message)}$") as caught:
        calibration.operating_point(asked)
    assert caught.value.field == "target_fmr"


def test_operating_points_worked_by_hand() -> None:
    # 30 different pairs at 0.00 to 0.29: at 0.1 three may pass, those above 0.26; for 0.01 there are too few.
    fit = ScoredPairs(
        cosine=np.concatenate([np.arange(30) / 100, [0.28, 0.8, 0.9]]), same=np.repeat([False, True], [30, 3])
    )
    measure = ScoredPairs(
        cosine=np.concatenate([np.tile([0.1, 0.2, 0.3, 0.4], 8), [0.2, 0.5]]), same=np.repeat([False, True], [32, 2])
    )
    calibration = fit_calibration(fit=fit, measure=measure, meaning="Same.", false_match_rate=0.01)
    (point,) = calibration.operating_points
    assert point.target_fmr == 0.1
    assert point.threshold == pytest.approx(0.26)
    assert point.threshold > 0.26
    assert (point.false_match_rate, point.false_non_match_rate) == (0.5, 0.5)
    assert (point.false_match_rate_low, point.false_match_rate_high) == wilson_interval(16, 32)
    assert (point.false_non_match_rate_low, point.false_non_match_rate_high) == wilson_interval(1, 2)
    # The default point has its intervals too.
    missed = round(calibration.false_non_match_rate * 2)
    assert (calibration.false_non_match_rate_low, calibration.false_non_match_rate_high) == wilson_interval(missed, 2)
    matched = round(calibration.false_match_rate * 32)
    assert (calibration.false_match_rate_low, calibration.false_match_rate_high) == wilson_interval(matched, 32)
    # On the pairs that it was measured on, its error is the stated one; on others it is another.
    assert calibration_error(calibration, measure) == pytest.approx(calibration.expected_calibration_error)
    assert calibration_error(calibration, fit) != pytest.approx(calibration.expected_calibration_error)


def far_apart(count: int, *, seed: int) -> ScoredPairs:
    """As many same as different pairs, around 0.7 and 0.1."""
    rng = np.random.default_rng(seed)
    same = np.repeat([True, False], count)
    return ScoredPairs(cosine=np.clip(np.where(same, 0.7, 0.1) + rng.normal(0, 0.15, 2 * count), -1, 1), same=same)


def test_points_keep_to_their_rates_on_the_pairs_that_they_were_chosen_on() -> None:
    calibration = fit_calibration(
        fit=far_apart(3_000, seed=0), measure=far_apart(3_000, seed=1), meaning="Same.", false_match_rate=0.02
    )
    # The default point's rate is one of the targets.
    assert [point.target_fmr for point in calibration.operating_points] == [0.1, 0.02, 0.01, 0.001]
    fitted = far_apart(3_000, seed=0)
    for point in calibration.operating_points:
        assert (fitted.cosine[~fitted.same] >= point.threshold).mean() <= point.target_fmr
    # One pair too few for the last, to fit on and to measure on.
    for fitted_on, measured_on in ((2_999, 3_000), (3_000, 2_999)):
        fewer = fit_calibration(
            fit=far_apart(fitted_on, seed=0),
            measure=far_apart(measured_on, seed=1),
            meaning="Same.",
            false_match_rate=0.01,
        )
        assert [point.target_fmr for point in fewer.operating_points] == [0.1, 0.01]


def test_the_intervals_hold_the_rates_that_the_pairs_were_drawn_from_as_often_as_they_say() -> None:
    fit = far_apart(300, seed=0)
    held = []
    for seed in range(100):
        calibration = fit_calibration(
            fit=fit, measure=far_apart(500, seed=1 + seed), meaning="Same.", false_match_rate=0.01
        )
        for point in calibration.operating_points:
            matched, missed = 1 - NormalDist(0.1, 0.15).cdf(point.threshold), NormalDist(0.7, 0.15).cdf(point.threshold)
            held.append(point.false_match_rate_low <= matched <= point.false_match_rate_high)
            held.append(point.false_non_match_rate_low <= missed <= point.false_non_match_rate_high)
    # 400 intervals of 95 %.
    assert 0.92 <= np.mean(held) <= 0.98


def test_a_calibration_with_operating_points_survives_json() -> None:
    values = json.loads(json.dumps(WITH_POINTS.to_json()))
    assert Calibration.from_json(JsonFields(values, names=Calibration.__dataclass_fields__)) == WITH_POINTS


def test_a_card_without_operating_points_is_written_as_it_was_read() -> None:
    old = {
        "meaning": "The two are the same.",
        "scale": 10.0,
        "offset": -5.0,
        "threshold": 0.5,
        "false_match_rate": 0.01,
        "false_non_match_rate": 0.02,
        "expected_calibration_error": 0.03,
        "pairs_fitted": 100,
        "pairs_measured": 200,
    }
    calibration = Calibration.from_json(JsonFields(old, names=Calibration.__dataclass_fields__))
    assert calibration == EXAMPLE
    assert calibration.operating_points == ()
    # The digest of a model covers these values.
    assert list(calibration.to_json().items()) == list(old.items())


def test_the_shipped_model_has_a_calibration() -> None:
    for package in shipped_packages():
        if package.card.calibration is not None:
            assert -1 < package.card.calibration.threshold < 1


def test_a_curve_must_be_finite() -> None:
    with pytest.raises(ValueError, match=r"^`scale` \(=inf\) must be finite\.$"):
        replace(EXAMPLE, scale=math.inf)
    with pytest.raises(ValueError, match=r"^`offset` \(=nan\) must be finite\.$"):
        replace(EXAMPLE, offset=math.nan)


def test_an_interval_of_one_end_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^`false_match_rate_low` and `false_match_rate_high` must be given both or neither\.$"
    ):
        replace(EXAMPLE, false_match_rate_low=0.0)


def test_an_interval_that_does_not_hold_its_rate_is_refused() -> None:
    message = (
        "`false_match_rate` (=0.01) must lie in 0.02..0.03 (`false_match_rate_low`, `false_match_rate_high`), "
        "within 0..1."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(EXAMPLE, false_match_rate_low=0.02, false_match_rate_high=0.03)


@pytest.mark.parametrize("points", [(STRICT, LOOSE), (LOOSE, LOOSE), (LOOSE, replace(STRICT, threshold=0.2))])
def test_points_out_of_order_are_refused(points: tuple[OperatingPoint, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"^`operating_points` must have falling `target_fmr` and thresholds that do not fall\.$"
    ):
        replace(EXAMPLE, operating_points=points)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_fmr": 1.5}, "`target_fmr` (=1.5) must lie in 0..1."),
        ({"threshold": -2.0}, "`threshold` (=-2.0) must lie in -1..1."),
        ({"false_non_match_rate": -0.1}, "`false_non_match_rate` (=-0.1) must lie in 0..1."),
        (
            {"false_non_match_rate_high": 1.5},
            "`false_non_match_rate` (=0.02) must lie in 0.01..1.5 (`false_non_match_rate_low`, "
            "`false_non_match_rate_high`), within 0..1.",
        ),
    ],
)
def test_a_wrong_value_of_a_point_names_its_rule(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(LOOSE, **change)


def _group(seed: int, *, shift: float, count: int = 2000) -> ScoredPairs:
    rng = np.random.default_rng(seed)
    same = np.arange(2 * count) < count
    return ScoredPairs(cosine=np.clip(rng.normal(np.where(same, 0.7, 0.2) + shift, 0.12), -1, 1), same=same)


def test_a_group_is_measured_by_what_is_fitted_on_the_others_and_all_are_kept() -> None:
    groups = [_group(number, shift=shift) for number, shift in enumerate((-0.1, 0.0, 0.1))]
    found = cross_fit_calibration(groups, meaning="m", false_match_rate=0.01)
    together = ScoredPairs(
        cosine=np.concatenate([one.cosine for one in groups]), same=np.concatenate([one.same for one in groups])
    )
    assert (found.scale, found.offset) == fit_logistic(together)
    assert found.pairs_fitted == found.pairs_measured == 12_000
    matched, probabilities = 0, []
    for number, left_out in enumerate(groups):
        others = [one for other, one in enumerate(groups) if other != number]
        own = fit_calibration(
            fit=ScoredPairs(
                cosine=np.concatenate([one.cosine for one in others]), same=np.concatenate([one.same for one in others])
            ),
            measure=left_out,
            meaning="m",
            false_match_rate=0.01,
        )
        matched += int((left_out.cosine[~left_out.same] >= own.threshold).sum())
        probabilities.append(own.probability(left_out.cosine))
    assert found.false_match_rate == matched / 6000
    assert found.expected_calibration_error == pytest.approx(
        expected_calibration_error(np.concatenate(probabilities), together.same)
    )


def test_groups_that_are_not_measured_are_fitted_on_all_the_same() -> None:
    groups = [_group(number, shift=shift) for number, shift in enumerate((-0.1, 0.0, 0.1))]
    all_measured = cross_fit_calibration(groups, meaning="m", false_match_rate=0.01)
    found = cross_fit_calibration(groups[2:], unmeasured=groups[:2], meaning="m", false_match_rate=0.01)
    assert (found.scale, found.offset) == pytest.approx((all_measured.scale, all_measured.offset))
    assert (found.pairs_fitted, found.pairs_measured) == (12_000, 4000)
    others = ScoredPairs(
        cosine=np.concatenate([one.cosine for one in groups[:2]]), same=np.concatenate([one.same for one in groups[:2]])
    )
    own = fit_calibration(fit=others, measure=groups[2], meaning="m", false_match_rate=0.01)
    assert found.false_match_rate == own.false_match_rate
    assert found.expected_calibration_error == own.expected_calibration_error


def test_one_group_alone_can_not_be_measured() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        cross_fit_calibration([_group(0, shift=0.0)], meaning="m", false_match_rate=0.01)


def test_targets_that_a_fit_on_the_other_groups_has_too_few_pairs_for_are_left_out() -> None:
    groups = [_group(number, shift=0.0, count=1600) for number in range(2)]
    found = cross_fit_calibration(groups, meaning="m", false_match_rate=0.01)
    assert [point.target_fmr for point in found.operating_points] == [0.1, 0.01]


def test_the_loss_of_measured_pairs_is_at_even_odds_and_by_the_curve_of_the_others() -> None:
    measured = ScoredPairs(cosine=np.array([0.5, 0.5, 0.7]), same=np.array([True, False, False]))
    # By the example 0.5 is one half and 0.7 is 1 / (1 + exp(-2)); the only same pair counts as much as the others.
    wanted = np.log(2) / 2 + (np.log(2) + np.log1p(np.exp(2))) / 4
    assert measured_loss([(measured, measured)], EXAMPLE) == pytest.approx(wanted)
    groups = [logistic_pairs(500, seed=seed) for seed in range(3)]
    scale, offset = fit_logistic(leave_one_out(groups)[0][0])
    first = measured_loss([(measured, groups[0])], replace(EXAMPLE, scale=scale, offset=offset))
    assert measured_loss(leave_one_out(groups)[:1]) == pytest.approx(first)
