from __future__ import annotations

import numpy as np
import pytest

from twinsight_core.errors import StartupError
from twinsight_core.exporting.agreement import Agreement, Run, agreement, check, compares_nothing, trial_pictures
from twinsight_core.images import Preprocessing

INPUT = Preprocessing(height_px=8, width_px=4)


def colours(images: np.ndarray) -> np.ndarray:
    means: np.ndarray = images.mean(axis=(1, 2), dtype=np.float32)
    return means


def test_the_least_cosine_counts_for_embeddings_and_the_largest_difference_for_others() -> None:
    one, other = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[3.0, 4.0], [0.6, 0.8]])
    found = agreement("embedding", one, other), agreement("classification", one, other)
    assert [measure for measure, _ in found] == ["cosine", "difference"]
    assert [value for _, value in found] == pytest.approx([0.6, 0.8])


def detections(*rows: tuple[float, float, float], of: int = 4) -> np.ndarray:
    """The answer for one picture: score, label and left edge of boxes at the bottom right, filled up to `of` rows."""
    answer = np.zeros((1, of, 6), np.float32)
    for row, (score, label, left) in enumerate(rows):
        answer[0, row] = (left, 0.5, 1, 1, score, label)
    return answer


def test_detections_are_compared_wherever_they_stand_in_the_answer() -> None:
    one = detections((0.8, 0, 0.1), (0.8, 1, 0.1), (0.7, 0, 0.3))
    other = detections((0.81, 1, 0.1), (0.8, 0, 0.13), (0.7, 0, 0.3))
    # By the row the labels would differ by 1.
    found = agreement("detection", one, other)
    assert found.measure == "difference"
    assert found.value == pytest.approx(0.03)


@pytest.mark.parametrize(
    "answer",
    [
        detections((0.8, 0, 0.1)),
        detections((0.8, 0, 0.1), (0.6, 1, 0.3)),
        detections((0.8, 0, 0.1), (0.6, 0, 0.3), (0.6, 0, 0.3)),
    ],
    ids=["missing", "of another label", "too many"],
)
def test_a_detection_without_a_partner_differs_by_its_score(answer: np.ndarray) -> None:
    wanted = detections((0.8, 0, 0.1), (0.6, 0, 0.3))
    assert agreement("detection", answer, wanted).value == pytest.approx(0.6)


def test_of_fifty_detections_one_is_left_aside_and_of_fewer_none() -> None:
    rows = [(0.9 - number / 100, 0.0, number / 100) for number in range(50)]
    for count, value in ((50, 0.0), (49, 0.9 - 48 / 100)):
        whole, less = detections(*rows[:count], of=count), detections(*rows[: count - 1], of=count)
        assert agreement("detection", less, whole).value == pytest.approx(value)


def test_where_neither_side_has_detections_nothing_is_compared() -> None:
    some = detections((0.8, 0, 0.1))
    assert compares_nothing("detection", detections(), detections())
    assert not compares_nothing("detection", detections(), some)
    assert not compares_nothing("detection", some, detections())
    assert not compares_nothing("classification", np.zeros((1, 2)), np.zeros((1, 2)))


def test_a_file_that_finds_nothing_is_judged_by_what_it_would_tell() -> None:
    def none(images: np.ndarray) -> np.ndarray:
        return np.concatenate([detections()] * len(images))

    def some(images: np.ndarray) -> np.ndarray:
        return np.concatenate([detections((0.04, 0, 0.1))] * len(images))

    def found(telling: Run) -> Agreement:
        return check(
            none,
            none,
            task="detection",
            preprocessing=INPUT,
            batch=None,
            telling_all=lambda: (telling, some),
        )

    assert found(some).value == 0.0
    with pytest.raises(StartupError, match=r"largest difference 4\.00e-02 on test pictures"):
        found(none)


def test_a_detection_that_is_not_a_number_does_not_agree() -> None:
    rows = [(0.9, 0.0, number / 100) for number in range(99)]
    wanted = detections(*rows, of=99)
    answer = wanted.copy()
    answer[0, 3, 0] = np.nan
    assert not agreement("detection", answer, wanted).suffices()


@pytest.mark.parametrize(
    ("found", "in_float32", "in_bfloat16"),
    [
        (Agreement("cosine", 0.99995), True, True),
        (Agreement("cosine", 0.9998), False, True),
        (Agreement("cosine", 0.989), False, False),
        (Agreement("cosine", float("nan")), False, False),
        (Agreement("difference", 9e-4), True, True),
        (Agreement("difference", 2e-3), False, True),
        (Agreement("difference", 2e-2), False, False),
        (Agreement("difference", float("nan")), False, False),
    ],
)
def test_bfloat16_may_differ_more_than_float32(found: Agreement, *, in_float32: bool, in_bfloat16: bool) -> None:
    assert found.suffices("f32") is in_float32
    assert found.suffices("bf16") is in_bfloat16


def test_the_pictures_are_the_same_every_time_and_differ_from_each_other() -> None:
    pictures = trial_pictures(INPUT)
    assert pictures.shape == (6, 8, 4, 3)
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, trial_pictures(INPUT))
    assert len(np.unique(pictures.reshape(6, -1), axis=0)) == 6


@pytest.mark.parametrize(("batch", "sizes"), [(None, {1, 5}), (2, {2})])
def test_a_file_is_run_with_the_batch_sizes_that_it_is_for(batch: int | None, sizes: set[int]) -> None:
    seen = set()

    def run(images: np.ndarray) -> np.ndarray:
        seen.add(len(images))
        return colours(images)

    assert check(run, colours, task="embedding", preprocessing=INPUT, batch=batch).value == pytest.approx(1.0)
    assert seen == sizes


def test_answers_that_differ_are_refused_with_the_figure() -> None:
    with pytest.raises(
        StartupError, match=r"largest difference 5\.00e-01 on test pictures, past a difference of 0\.001"
    ):
        check(
            lambda images: colours(images) + np.float32(0.5),
            colours,
            task="classification",
            preprocessing=INPUT,
            batch=None,
        )
    with pytest.raises(StartupError, match=r"answers with float64 \(6, 3\); it must be float32 \(6, 3\)\."):
        check(
            lambda images: colours(images) * np.float64(1), colours, task="embedding", preprocessing=INPUT, batch=None
        )
