"""What a calibration is fitted to, whatever scale a model's cosines have."""

from __future__ import annotations

import numpy as np
import pytest

from twinsight_core.calibration import ScoredPairs
from twinsight_core.comparison import compare, decision_for
from twinsight_core.evaluation.fitting import calibration_error, cross_fit_calibration, fit_calibration, fit_logistic


def _pairs(count: int, *, middle: tuple[float, float], spread: tuple[float, float], seed: int = 0) -> ScoredPairs:
    """As many same as different pairs of normal cosines."""
    rng = np.random.default_rng(seed)
    same, different = (rng.normal(at, by, count) for at, by in zip(middle, spread, strict=True))
    return ScoredPairs(
        cosine=np.clip(np.concatenate([same, different]), -1, 1), same=np.repeat([True, False], [count, count])
    )


@pytest.mark.parametrize("width", [1.0, 0.1, 0.01, 0.001])
def test_cosines_that_lie_close_together_give_probabilities_as_sure_as_others(width: float) -> None:
    fit, measure = (
        _pairs(500, middle=(1 - 0.2 * width, 1 - 0.7 * width), spread=(0.06 * width, 0.15 * width), seed=seed)
        for seed in (0, 1)
    )
    calibration = fit_calibration(fit=fit, measure=measure, meaning="Same.", false_match_rate=0.01)
    assert calibration.expected_calibration_error < 0.02
    probability = calibration.probability(measure.cosine)
    assert np.quantile(probability[measure.same], 0.5) > 0.99
    assert np.quantile(probability[~measure.same], 0.5) < 0.01
    assert calibration_error(calibration, measure) == pytest.approx(calibration.expected_calibration_error)


def test_a_curve_moves_with_its_pairs() -> None:
    pairs = _pairs(500, middle=(0.9, 0.6), spread=(0.05, 0.08))
    scale, offset = fit_logistic(pairs)
    moved = fit_logistic(ScoredPairs(cosine=pairs.cosine - 0.9, same=pairs.same))
    assert moved == pytest.approx((scale, offset + 0.9 * scale), rel=1e-6)


@pytest.mark.parametrize("cosine", [0.5, 0.7, 0.3, 0.99])
@pytest.mark.parametrize("counts", [(200, 200), (300, 700), (100, 3000)])
def test_equal_cosines_say_nothing(cosine: float, counts: tuple[int, int]) -> None:
    pairs = ScoredPairs(cosine=np.full(sum(counts), cosine), same=np.repeat([True, False], counts))
    with pytest.raises(ValueError, match=r"the fitted `scale` \(=0\) must be above 0"):
        fit_calibration(fit=pairs, measure=pairs, meaning="Same.", false_match_rate=0.01)


def test_a_curve_is_that_of_even_odds_however_many_pairs_of_a_kind_there_are() -> None:
    few, many = (_pairs(count, middle=(0.7, 0.4), spread=(0.1, 0.1)) for count in (2000, 40_000))
    cosine = np.concatenate([few.cosine[few.same], many.cosine[~many.same]])
    scale, offset = fit_logistic(ScoredPairs(cosine=cosine, same=np.repeat([True, False], [2000, 40_000])))
    # Of normal cosines of one spread the log odds are linear: slope 0.3 / 0.1^2, none in the middle.
    assert scale == pytest.approx(30, rel=0.05)
    assert -offset / scale == pytest.approx(0.55, abs=0.005)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_the_threshold_is_that_of_its_rate_or_where_the_probability_is_one_half(rate: float) -> None:
    fit, measure = (_pairs(2000, middle=(0.8, 0.2), spread=(0.05, 0.1), seed=seed) for seed in (0, 1))
    floored = fit_calibration(fit=fit, measure=measure, meaning="Same.", false_match_rate=rate)
    assert floored.probability(np.array([floored.threshold])) == pytest.approx(0.5)
    assert floored.false_match_rate < rate / 10
    for wanted in (
        fit_calibration(fit=fit, measure=measure, meaning="Same.", false_match_rate=rate, at_least_even=False),
        cross_fit_calibration([fit, measure], meaning="Same.", false_match_rate=rate, at_least_even=False),
    ):
        assert wanted.false_match_rate == pytest.approx(rate, rel=0.2)
        assert decision_for(wanted, rate) is not None
        (point,) = (one for one in wanted.operating_points if one.target_fmr == rate)
        assert (point.threshold, point.false_match_rate) == (wanted.threshold, wanted.false_match_rate)


def test_a_rate_that_no_threshold_meets_is_not_stated() -> None:
    # Two in a hundred different pairs are copies of one picture.
    same = np.repeat([True, False], 3000)
    cosine = np.where(same, 0.9, 0.1) + np.random.default_rng(0).uniform(-0.05, 0.05, 6000)
    cosine[3000:3060] = 1.0
    pairs = ScoredPairs(cosine=cosine, same=same)
    met = fit_calibration(fit=pairs, measure=pairs, meaning="Same.", false_match_rate=0.05)
    assert [point.target_fmr for point in met.operating_points] == [0.1, 0.05]
    with pytest.raises(ValueError, match=r"^of the different pairs more than 0\.01 have a cosine of 1: are copies"):
        fit_calibration(fit=pairs, measure=pairs, meaning="Same.", false_match_rate=0.01)


def test_equal_vectors_have_a_cosine_of_one() -> None:
    vectors = list(np.random.default_rng(0).normal(size=(500, 256)).astype(np.float32))
    found = compare(vectors, vectors, None)
    assert {(one.cosine_similarity, one.euclidean_distance) for one in found} == {(1.0, 0.0)}
