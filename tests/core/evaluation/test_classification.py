import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.evaluation.classification import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    balanced_accuracy,
    calibration_error_by_chance,
    class_precision,
    class_recall,
    classification_score,
    confusion_matrix,
    expected_calibration_error,
    fit_temperature,
    log_softmax,
    negative_log_likelihood,
    top_k_accuracy,
)
from twinsight_core.evaluation.weighting import even_class_weights


def test_top_k_accuracy_worked_by_hand() -> None:
    scores = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    labels = np.array([0, 1, 0])
    assert top_k_accuracy(scores, labels, k=1) == pytest.approx(1 / 3)
    assert top_k_accuracy(scores, labels, k=2) == pytest.approx(2 / 3)
    assert top_k_accuracy(scores, labels, k=3) == 1.0


def test_equal_scores_for_all_are_right_by_chance_only() -> None:
    assert top_k_accuracy(np.zeros((4, 4)), np.arange(4), k=1) == 0.25
    assert top_k_accuracy(np.zeros((4, 4)), np.arange(4), k=2) == 0.5


def test_confusion_recall_and_precision_worked_by_hand() -> None:
    confusion = confusion_matrix(np.array([0, 0, 0, 1, 1, 3]), np.array([0, 0, 1, 1, 0, 1]), classes=4)
    np.testing.assert_array_equal(confusion, [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    # No picture is of class 2, and neither 2 nor 3 was named.
    assert class_recall(confusion) == pytest.approx((2 / 3, 1 / 2, None, 0.0))
    assert class_precision(confusion) == pytest.approx((2 / 3, 1 / 3, None, None))
    assert balanced_accuracy(confusion) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_naming_all_by_the_frequent_class_is_chance_in_balanced_accuracy() -> None:
    confusion = confusion_matrix(np.repeat([0, 1], [99, 1]), np.zeros(100, int), classes=2)
    assert balanced_accuracy(confusion) == 0.5


def test_calibration_error_worked_by_hand() -> None:
    # Bins of 1/15: {0.6, 0.65} (0.6 to 0.667) with one right, {0.9} with none.
    probabilities = np.array([[0.61, 0.39], [0.35, 0.65], [0.1, 0.9]])
    error = expected_calibration_error(probabilities, np.array([0, 0, 0]))
    assert error == pytest.approx((abs(1.26 - 1) + 0.9) / 3)


def test_the_calibration_error_by_chance_shrinks_with_the_root_of_the_pictures() -> None:
    # One bin, confidence 0.8: the mean of |share right - 0.8| is sqrt(2 / pi) sqrt(0.16 / count).
    for count in (100, 2500):
        by_chance = calibration_error_by_chance(np.tile([0.8, 0.2], (count, 1)), draws=2000)
        np.testing.assert_allclose(by_chance, np.sqrt(2 / np.pi * 0.16 / count), rtol=0.1)


def test_nothing_is_left_to_chance_where_all_is_certain() -> None:
    assert calibration_error_by_chance(np.eye(3)) == 0.0


def test_a_temperature_worked_by_hand() -> None:
    # Logits say 9 to 1; three of four are right. Smoothed, each label has 5/6 of its picture: class 0 has 3 x 5/6 + 1/6
    # of four, so 2 to 1 fits best: log 9 / T = log 2.
    logits = np.tile([np.log(9.0), 0.0], (4, 1))
    labels = np.array([0, 0, 0, 1])
    assert fit_temperature(logits, labels) == pytest.approx(np.log(9.0) / np.log(2.0), rel=1e-6)
    # Of many the smoothing hardly counts: 3 to 1.
    assert fit_temperature(np.tile(logits, (250, 1)), np.tile(labels, 250)) == pytest.approx(2.0, rel=0.004)


def fooled(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confident logits of ten classes, of which one in eight is taken for another."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(10, size=count)
    seen = np.where(rng.random(count) < 0.125, rng.integers(10, size=count), labels)
    return rng.normal(size=(count, 10)) + 6.0 * np.eye(10)[seen], labels


def test_a_few_pictures_that_are_all_right_do_not_make_every_probability_1() -> None:
    logits, labels = fooled(400, seed=0)
    right = np.flatnonzero(logits.argmax(axis=1) == labels)[:12]
    temperature = fit_temperature(logits[right], labels[right])
    confidence = np.exp(-negative_log_likelihood(logits[right], labels[right], temperature=temperature))
    assert confidence == pytest.approx(13 / 14, abs=0.03)
    others = fooled(2000, seed=1)
    assert negative_log_likelihood(*others, temperature=temperature) < negative_log_likelihood(*others) + 0.05


def test_the_smoothing_hardly_counts_among_a_thousand_pictures() -> None:
    logits, labels = fooled(1000, seed=2)
    plain = min(
        np.geomspace(0.5, 5.0, 2000), key=lambda one: negative_log_likelihood(logits, labels, temperature=float(one))
    )
    assert fit_temperature(logits, labels) == pytest.approx(float(plain), rel=0.02)


def sampled(temperature: float, *, seed: int, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times what the labels were drawn from."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 5)) * 2
    labels = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return logits * temperature, labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_fit_finds_the_temperature_that_made_the_logits(temperature: float) -> None:
    logits, labels = sampled(temperature, seed=0)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0.2, 5.0))
def test_no_other_temperature_has_a_lower_loss(seed: int, scale: float) -> None:
    logits, labels = sampled(scale, seed=seed, count=30)

    def loss(temperature: float) -> float:
        """Each label has 31/32 of its picture, each of the four other classes a quarter of the rest."""
        of_classes = [
            negative_log_likelihood(logits, np.full(30, label), temperature=temperature) for label in range(5)
        ]
        of_labels = negative_log_likelihood(logits, labels, temperature=temperature)
        return 31 / 32 * of_labels + 1 / 32 / 4 * (sum(of_classes) - of_labels)

    best = loss(fit_temperature(logits, labels))
    for other in (1.0, *np.geomspace(LEAST_TEMPERATURE, MOST_TEMPERATURE, 20)):
        assert best <= loss(float(other)) + 1e-9


def test_a_fitted_temperature_lowers_the_calibration_error_on_other_pictures() -> None:
    temperature = fit_temperature(*sampled(4.0, seed=1))
    logits, labels = sampled(4.0, seed=2)
    before = classification_score(logits, labels)
    after = classification_score(logits / temperature, labels)
    assert before.expected_calibration_error > 0.15
    assert after.expected_calibration_error < 0.02
    assert after.negative_log_likelihood < before.negative_log_likelihood
    assert after.confusion == before.confusion


def test_temperatures_end_where_the_optimum_lies_beyond_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    logits = np.eye(3) * 2.0
    # All right: 4/5 to 1/10 each fits best, exp(2 / T) = 8.
    assert fit_temperature(logits, np.arange(3)) == pytest.approx(2.0 / np.log(8.0))
    assert not caplog.messages
    assert fit_temperature(logits * 1e-3, np.arange(3)) == LEAST_TEMPERATURE
    assert fit_temperature(logits, np.array([1, 2, 0])) == MOST_TEMPERATURE
    assert caplog.messages == [
        f"no temperature in 0.01..100 fits the logits of 3 pictures; using {end}, and probabilities mean little"
        for end in ("0.01", "100")
    ]


def test_a_score_holds_all_measures() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]))
    score = classification_score(logits, np.array([0, 1, 1, 2]))
    # Of three classes there is no top 5.
    assert score.top_k == {1: 0.75}
    assert score.recall == (1.0, 0.5, 1.0)
    assert score.precision == (0.5, 1.0, 1.0)
    assert score.balanced_accuracy == pytest.approx(2.5 / 3)
    assert score.confusion == ((1, 0, 0), (1, 1, 0), (0, 0, 1))
    assert score.negative_log_likelihood == pytest.approx(-np.log([0.7, 0.7, 0.3, 0.8]).mean())
    # Bins: {0.7, 0.7} both right, {0.6} wrong, {0.8} right.
    assert score.expected_calibration_error == pytest.approx((0.6 + 0.6 + 0.2) / 4)
    assert score.pictures == 4


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), [0], "the scores (2, 3) must be [count, classes] and `labels` (1,) [count], at least one."),
        (np.zeros((0, 3)), [], "the scores (0, 3) must be [count, classes] and `labels` (0,) [count], at least one."),
        (np.zeros((1, 3)), [3], "`labels` must lie in 0..2; they reach from 3 to 3."),
        (np.full((1, 3), np.nan), [0], "a score is not a number."),
    ],
)
def test_what_can_not_be_scored_is_refused(scores: np.ndarray, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        classification_score(scores, np.array(labels, np.int64))


def test_a_k_beyond_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^`k` \(=4\) must lie in 1\.\.3, the number of classes\.$"):
        top_k_accuracy(np.zeros((1, 3)), np.array([0]), k=4)


def test_even_weights_count_every_class_alike() -> None:
    weights = even_class_weights(np.array([0, 0, 0, 2]))
    np.testing.assert_allclose(weights, [2 / 3, 2 / 3, 2 / 3, 2.0])
    assert weights.mean() == pytest.approx(1.0)


def test_of_equally_frequent_classes_the_temperature_and_the_error_are_right_with_even_weights_alone() -> None:
    # Two classes, 95 to 5, and one feature: a network that is right where both are equally frequent, at temperature 2.
    rng = np.random.default_rng(0)
    labels = (rng.random(40_000) < 0.05).astype(np.int64)
    feature = rng.normal(2.0 * labels - 1.0)
    logits = 2.0 * np.stack([-feature, feature], axis=1)
    weights = even_class_weights(labels)
    assert fit_temperature(logits, labels, weights=weights) == pytest.approx(2.0, rel=0.03)
    probabilities = np.exp(log_softmax(logits / 2.0))
    assert expected_calibration_error(probabilities, labels, weights=weights) < 0.01
    # At the pictures' own frequencies the rare label is over-sure.
    rare = probabilities[:, 1] > 0.8
    assert labels[rare].mean() < probabilities[rare, 1].mean() - 0.3
