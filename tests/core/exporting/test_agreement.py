from __future__ import annotations

import numpy as np
import pytest

from twinsight_core.errors import StartupError
from twinsight_core.exporting.agreement import Agreement, agreement, check, trial_pictures
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


@pytest.mark.parametrize(
    ("found", "enough"),
    [
        (Agreement("cosine", 0.99995), True),
        (Agreement("cosine", 0.9998), False),
        (Agreement("cosine", float("nan")), False),
        (Agreement("difference", 9e-4), True),
        (Agreement("difference", 2e-3), False),
        (Agreement("difference", float("nan")), False),
    ],
)
def test_what_is_enough(found: Agreement, enough: bool) -> None:
    assert found.enough == enough


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
