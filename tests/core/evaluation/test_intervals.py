import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinsight_core.evaluation import intervals
from twinsight_core.evaluation.intervals import class_bootstrap_interval, wilson_interval


def test_the_interval_worked_by_hand() -> None:
    # With z^2 = 3.8415: (0.5 + 3.8415/20 -+ 1.96 sqrt(0.025 + 3.8415/400)) / 1.38415.
    assert wilson_interval(5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    # None of ten: z^2 / (10 + z^2).
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)


def test_nothing_is_known_without_trials() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@given(trials=st.integers(1, 10**6), share=st.floats(0, 1), confidence=st.sampled_from([0.5, 0.95, 0.999]))
def test_the_interval_holds_the_share_within_0_and_1(trials: int, share: float, confidence: float) -> None:
    successes = round(share * trials)
    low, high = wilson_interval(successes, trials, confidence=confidence)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
    # What fails is the rest.
    assert wilson_interval(trials - successes, trials, confidence=confidence) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(
    ("successes", "confidence", "message"),
    [
        (11, 0.95, "`successes` (=11) must lie in 0..`trials` (=10)."),
        (-1, 0.95, "`successes` (=-1) must lie in 0..`trials` (=10)."),
        (1, 1.0, "`confidence` (=1.0) must lie between 0 and 1."),
    ],
)
def test_a_wrong_value_names_its_rule(successes: int, confidence: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        wilson_interval(successes, 10, confidence=confidence)


def test_classes_are_drawn_and_not_pairs() -> None:
    # All of one class go wrong and none of the other: a fourth of the resamples has the one alone, a fourth the other.
    wrong, classes = np.repeat([True, False], 50), np.repeat([[3, 3], [8, 8]], 50, axis=0)
    assert class_bootstrap_interval(wrong, classes) == (0.0, 1.0)
    # The half in the middle.
    assert class_bootstrap_interval(wrong, classes, confidence=0.4) == (0.5, 0.5)


def test_a_pair_of_two_classes_counts_as_often_as_both_were_drawn() -> None:
    # Of three draws, without those of one class thrice: a fourth has all three (1/3 wrong), a fourth the first two
    # alone (1), a half the third and another (0).
    wrong, classes = np.array([True, False, False]), np.array([[0, 1], [2, 0], [1, 2]])
    assert class_bootstrap_interval(wrong, classes) == (0.0, 1.0)
    assert class_bootstrap_interval(wrong, classes, confidence=0.3) == pytest.approx((0.0, 1 / 3))


def test_an_interval_over_many_classes_that_are_alike_is_that_of_as_many_trials() -> None:
    wrong = np.random.default_rng(0).random(2000) < 0.3
    classes = np.repeat(np.arange(2000), 2).reshape(-1, 2)
    found = class_bootstrap_interval(wrong, classes)
    assert found == pytest.approx(wilson_interval(int(wrong.sum()), 2000), abs=0.003)
    assert class_bootstrap_interval(wrong, classes) == found


def test_resamples_that_memory_holds_apart_alone_give_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    classes, wrong = rng.integers(0, 40, (2000, 2)), rng.random(2000) < 0.1
    together = class_bootstrap_interval(wrong, classes)
    drawn: list[int] = []
    draws = np.random.default_rng(0)

    class Noting:
        def multinomial(self, n: int, shares: np.ndarray, size: int) -> np.ndarray:
            drawn.append(size)
            return draws.multinomial(n, shares, size)

    monkeypatch.setattr(np.random, "default_rng", lambda _: Noting())
    monkeypatch.setattr(intervals, "_WEIGHTS_AT_ONCE", 7 * len(np.unique(np.sort(classes, axis=1), axis=0)))
    assert class_bootstrap_interval(wrong, classes) == together
    assert (max(drawn), sum(drawn)) == (7, intervals.RESAMPLES)
