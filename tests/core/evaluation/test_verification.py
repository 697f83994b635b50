import re
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinsight_core.calibration import ScoredPairs
from twinsight_core.evaluation.fitting import fit_calibration
from twinsight_core.evaluation.verification import (
    TarAtFar,
    area_under,
    best_threshold,
    equal_error_rate,
    k_fold_accuracy,
    roc_curve,
    tar_at_far,
    verification_score,
)


def pairs(same: list[float], different: list[float]) -> ScoredPairs:
    return ScoredPairs(cosine=np.array(same + different), same=np.repeat([True, False], [len(same), len(different)]))


def test_the_curve_worked_by_hand() -> None:
    roc = roc_curve(pairs([0.9, 0.6, 0.4], [0.6, 0.1]))
    np.testing.assert_array_equal(roc.thresholds, [np.inf, 0.9, 0.6, 0.4, 0.1])
    np.testing.assert_allclose(roc.true_accept_rate, [0, 1 / 3, 2 / 3, 1, 1])
    np.testing.assert_allclose(roc.false_accept_rate, [0, 0, 1 / 2, 1 / 2, 1])
    # Of the 3 x 2 comparisons 4 are in order (0.9 twice, 0.6 and 0.4 over 0.1) and one is equal.
    assert area_under(roc) == pytest.approx(4.5 / 6)
    # On the line from (0, 1/3) to (1/2, 2/3): false rejects 2/3 - 2/3 x fall to x at 2/5.
    assert equal_error_rate(roc) == pytest.approx(2 / 5)


def test_pairs_that_separate_make_no_error() -> None:
    score = verification_score(pairs([0.8, 0.9], [0.2, 0.1]))
    assert (score.auc, score.equal_error_rate, score.accuracy) == (1.0, 0.0, 1.0)
    assert score.threshold == pytest.approx(0.5)
    assert (score.same_pairs, score.different_pairs, score.k_fold) == (2, 2, None)


def test_scores_that_are_all_equal_tell_nothing() -> None:
    score = verification_score(pairs([0.5, 0.5], [0.5, 0.5]))
    assert (score.auc, score.equal_error_rate, score.accuracy) == (0.5, 0.5, 0.5)


scores = st.lists(st.integers(-5, 5).map(lambda number: number / 5), min_size=1, max_size=12)


@given(same=scores, different=scores)
def test_the_area_is_the_share_of_comparisons_in_order(same: list[float], different: list[float]) -> None:
    in_order = np.mean([(s > d) + (s == d) / 2 for s in same for d in different])
    assert area_under(roc_curve(pairs(same, different))) == pytest.approx(in_order)


@given(same=scores, different=scores)
def test_the_best_threshold_is_as_good_as_it_says_and_none_is_better(same: list[float], different: list[float]) -> None:
    both = pairs(same, different)
    threshold, accuracy = best_threshold(both)
    assert np.isfinite(threshold)
    assert ((both.cosine >= threshold) == both.same).mean() == pytest.approx(accuracy)
    for other in np.linspace(-1.1, 1.1, 23):
        assert ((both.cosine >= other) == both.same).mean() <= accuracy + 1e-12


def test_k_folds_choose_the_threshold_on_the_others() -> None:
    # Fold 0 separates between 0.4 and 0.8, fold 1 between 0.1 and 0.3.
    both = ScoredPairs(cosine=np.array([0.8, 0.4, 0.3, 0.1]), same=np.array([True, False, True, False]))
    result = k_fold_accuracy(both, np.array([0, 0, 1, 1]))
    # At 0.2 fold 0's different pair passes; at 0.6 fold 1's same pair fails.
    assert result.thresholds == pytest.approx((0.2, 0.6))
    assert result.accuracies == (0.5, 0.5)
    assert (result.mean, result.standard_error) == (0.5, 0.0)


def test_the_standard_error_is_of_the_mean() -> None:
    both = ScoredPairs(cosine=np.array([0.9, 0.1, 0.9, 0.1, 0.2, 0.1]), same=np.array([True, False] * 3))
    result = k_fold_accuracy(both, np.array([0, 0, 1, 1, 2, 2]))
    assert result.accuracies == (1.0, 1.0, 0.5)
    # Standard deviation of 1, 1, 1/2 with n - 1, over the root of 3.
    assert result.standard_error == pytest.approx(np.sqrt((2 * (1 / 6) ** 2 + (1 / 3) ** 2) / 2 / 3))


def test_a_true_accept_rate_worked_by_hand() -> None:
    # 30 different pairs, 0.70, 0.69 and so on: at a FAR of 0.1 three may pass, and all same ones above 0.67 do.
    both = pairs([0.9, 0.685, 0.675, 0.5], [0.7 - number / 100 for number in range(30)])
    found = tar_at_far(both, far=0.1)
    assert found.threshold == pytest.approx(0.675)
    assert found.true_accept_rate == 0.75
    # Of 30 trials at 0.1, 0 to 7 succeed: P(0) = 0.042, P(<= 6) = 0.974, P(<= 7) = 0.992. Above all of the different
    # pairs is one same pair of four, above all but 23 of them are three. With z^2 = 3.8415 the ends are
    # (0.25 + 3.8415/8 - 1.96 sqrt(0.1875/4 + 3.8415/64)) / 1.96037 and (0.75 + 3.8415/8 + ...) / 1.96037.
    assert (found.low, found.high) == pytest.approx((0.04559, 0.95441), abs=1e-4)
    assert (found.different_pairs, found.different_pairs_needed) == (30, 30)


@pytest.mark.parametrize(("far", "different"), [(0.01, 300), (0.01, 5000), (0.1, 30)])
def test_the_interval_holds_the_rate_whatever_pairs_there_are(far: float, different: int) -> None:
    # Same pairs are as normal as different ones, but two standard deviations closer.
    rate = 1.0 - NormalDist(2.0).cdf(NormalDist().inv_cdf(1.0 - far))
    rng, held = np.random.default_rng(0), 0
    for _ in range(100):
        found = tar_at_far(pairs(rng.normal(2.0, 1.0, 500).tolist(), rng.normal(size=different).tolist()), far=far)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= rate <= found.high
    assert held >= 92  # an interval of the same pairs alone holds it 33 to 88 times


def test_where_classes_are_known_the_interval_is_over_other_classes() -> None:
    # Of ten classes five are always accepted and five never: fifty pairs say no more than ten.
    classes = np.repeat(np.arange(10), 5)
    listed = pairs(np.where(classes < 5, 0.9, 0.1).tolist(), [0.5] * 60)
    known = replace(listed, classes=np.stack([np.append(classes, [10] * 60), np.append(classes, [11] * 60)], axis=1))
    independent, found = tar_at_far(listed, far=0.1), tar_at_far(known, far=0.1)
    assert independent.true_accept_rate == found.true_accept_rate == 0.5
    assert (independent.low, independent.high) == pytest.approx((0.366, 0.634), abs=1e-3)
    # With ten draws of a fair coin 2.5 % lie at two or less.
    assert (found.low, found.high) == pytest.approx((0.2, 0.8), abs=0.05)


def test_where_classes_are_known_the_threshold_is_over_other_classes_too() -> None:
    # All different pairs that are accepted are of one class: where it is not drawn, none is.
    same = np.linspace(0.0, 1.0, 40)
    listed = pairs(same.tolist(), np.where(np.arange(200) % 10 == 0, np.arange(200) / 200, -1.0).tolist())
    left = np.append(np.arange(100, 140), np.arange(200) % 10)
    right = np.append(np.arange(100, 140), np.arange(200) % 7 + 20)
    independent, found = (
        tar_at_far(listed, far=0.1),
        tar_at_far(replace(listed, classes=np.stack([left, right], 1)), far=0.1),
    )
    assert independent.threshold == found.threshold
    assert independent.low is not None
    assert independent.low > 0.4
    assert found.low is not None
    assert found.low < 0.1


def test_a_rate_is_not_stated_on_too_few_different_pairs() -> None:
    assert tar_at_far(pairs([0.9] * 10, [0.1] * 29), far=0.1) == TarAtFar(0.1, None, None, None, None, 29, 30)
    rates = verification_score(pairs([0.9] * 10, [0.1] * 300)).tar_at_far
    assert [(one.far, one.true_accept_rate) for one in rates] == [(0.1, 1.0), (0.01, 1.0), (0.001, None)]
    assert rates[2].different_pairs_needed == 3000


def test_none_is_accepted_where_the_closest_are_different() -> None:
    found = tar_at_far(pairs([0.5], [0.9] * 30), far=0.1)
    assert found.true_accept_rate == 0.0
    assert found.threshold == pytest.approx(0.9)
    assert found.threshold is not None
    assert found.threshold > 0.9


@given(seed=st.integers(0, 2**31 - 1), far=st.sampled_from([0.1, 0.29, 0.5, 1.0]))
def test_the_rate_at_the_threshold_is_kept_to(seed: int, far: float) -> None:
    rng = np.random.default_rng(seed)
    both = ScoredPairs(cosine=rng.normal(size=140).round(1), same=np.repeat([True, False], [40, 100]))
    found = tar_at_far(both, far=far)
    assert found.threshold is not None
    accepted = both.cosine >= found.threshold
    assert accepted[~both.same].mean() <= far + 1e-9
    assert accepted[both.same].mean() == found.true_accept_rate


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([0, 1], "`folds` (2,) must be (4,), one a pair."),
        ([0, 0, 0, 0], "`folds` must have at least two folds; there is 1."),
        ([0, 0, 0, 1], "`same` must have pairs of both kinds."),
    ],
)
def test_folds_that_choose_nothing_are_refused(folds: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        k_fold_accuracy(pairs([0.9, 0.8], [0.1, 0.2]), np.array(folds))


def test_a_wrong_rate_names_its_rule() -> None:
    with pytest.raises(ValueError, match=r"^`far` \(=0\.0\) must be above 0 and at most 1\.$"):
        tar_at_far(pairs([0.9], [0.1]), far=0.0)


def test_calibrations_and_measures_let_as_many_pairs_pass_at_a_rate() -> None:
    # 0.29 x 100 is a little below 29 in binary.
    same, different = np.linspace(0.95, 0.99, 100), np.linspace(0.9, -0.9, 100)
    both = pairs(list(same), list(different))
    calibration = fit_calibration(fit=both, measure=both, meaning="The two are the same.", false_match_rate=0.29)
    (point,) = [one for one in calibration.operating_points if one.target_fmr == 0.29]
    assert (different >= point.threshold).sum() == 29
    assert (different >= (tar_at_far(both, far=0.29).threshold or 0.0)).sum() == 29
