from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from twinsight_core.errors import TrainingError
from twinsight_core.images import Preprocessing
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.training.classifier import (
    BALANCES,
    ClassifierTraining,
    Sampler,
    classification_loss,
    split,
)
from twinsight_core.training.data import LabelledImages, read_class_folders

SIZE = Preprocessing(height_px=8, width_px=8)
HOW = ClassifierTraining(
    network=ClassifierConfig(backbone=ResNetConfig(depths=(1,), widths=(4,), stem="small"), classes=3),
    preprocessing=SIZE,
    batch=12,
    smoothing=0.0,
)


@pytest.fixture(scope="module")
def pictures(write_drawings: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """Three classes of 20, 20 and 5 pictures."""
    path = tmp_path_factory.mktemp("data") / "set.zip"
    write_drawings(path, groups=1, classes=3, pictures=20)
    read = read_class_folders(path, preprocessing=SIZE)
    kept = np.r_[:45]
    return replace(read, images=read.images[kept], labels=read.labels[kept], files=read.files[:45])


def test_pictures_of_every_class_are_held_out_whatever_their_order(pictures: LabelledImages) -> None:
    parts = split(pictures, HOW)
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(45))
    for rows, counts in ((parts.train, [14, 14, 3]), (parts.validation, [2, 2, 1]), (parts.test, [4, 4, 1])):
        assert np.bincount(pictures.labels[rows]).tolist() == counts
    order = np.random.default_rng(0).permutation(45)
    mixed = replace(
        pictures,
        images=pictures.images[order],
        labels=pictures.labels[order],
        files=tuple(pictures.files[row] for row in order),
    )
    assert {mixed.files[row] for row in split(mixed, HOW).test} == {pictures.files[row] for row in parts.test}


def test_one_class_and_a_class_too_small_are_refused(pictures: LabelledImages) -> None:
    one = replace(pictures, images=pictures.images[:20], labels=pictures.labels[:20], classes=("cat",))
    with pytest.raises(TrainingError, match=r"^There is one class \(`cat`\); a classifier needs at least two\.$"):
        split(one, HOW)
    few = replace(pictures, images=pictures.images[:42], labels=pictures.labels[:42], files=pictures.files[:42])
    with pytest.raises(TrainingError, match=r"^The class `class02` has 2 pictures; it needs at least 3"):
        split(few, HOW)


def test_sampling_draws_all_classes_equally_often(pictures: LabelledImages) -> None:
    rows = split(pictures, HOW).train
    plain, even = (Sampler(pictures, rows, replace(HOW, balance=balance)) for balance in ("none", "sampling"))
    assert np.bincount(even.batch(0).labels).tolist() == [4, 4, 4]
    drawn = np.bincount(np.concatenate([plain.batch(step).labels for step in range(50)]))
    assert drawn[2] < 0.35 * drawn[0]  # 3 pictures beside 14
    np.testing.assert_array_equal(even.batch(7).images, even.batch(7).images)


@pytest.mark.parametrize("balance", BALANCES)
def test_every_loss_is_lower_for_the_right_class(balance: str) -> None:
    how, counts = replace(HOW, balance=balance), np.array([90, 9, 1])  # type: ignore[arg-type]  # one of BALANCES
    labels = jnp.array([0, 1, 2])
    right = classification_loss(5 * jnp.eye(3), labels, how, counts)
    wrong = classification_loss(5 * jnp.eye(3)[::-1], labels, how, counts)
    assert float(right) < 0.5 * float(wrong)


def test_a_rare_class_weighs_more_under_every_balance_but_none_and_sampling() -> None:
    labels, counts = jnp.array([0, 0, 1]), np.array([90, 10])
    missed_rare = jnp.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    plain = classification_loss(missed_rare, labels, replace(HOW, balance="none"), counts)
    for balance in ("effective_number", "logit_adjusted"):
        weighted = classification_loss(missed_rare, labels, replace(HOW, balance=balance), counts)
        assert float(weighted) > 1.2 * float(plain), balance


def test_the_split_of_a_folder_does_not_hang_on_where_it_lies(
    write_drawings: Callable[..., None], tmp_path: Path
) -> None:
    write_drawings(tmp_path / "a.zip", groups=1, classes=2, pictures=6)
    before = split(read_class_folders(tmp_path / "a.zip", preprocessing=SIZE), HOW)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.zip").rename(tmp_path / "elsewhere" / "b.zip")
    read = read_class_folders(tmp_path / "elsewhere" / "b.zip", preprocessing=SIZE)
    assert split(read, HOW).test.tolist() == before.test.tolist()
    assert all(file.startswith("class") for file in read.files)
