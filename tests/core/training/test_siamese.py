from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.errors import TrainingError
from twinsight_core.images import Preprocessing
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.training.augment import PRESETS
from twinsight_core.training.data import LabelledImages, read_class_folders
from twinsight_core.training.loop import LoopConfig
from twinsight_core.training.siamese import (
    LOSSES,
    Sampler,
    SiameseTraining,
    embedding_loss,
    split,
    train_siamese,
    validation_score,
)

SIZE = Preprocessing(height_px=8, width_px=8)
HOW = SiameseTraining(
    network=SiameseConfig(backbone=ResNetConfig(depths=(1,), widths=(4,), stem="small"), dimension=4),
    preprocessing=SIZE,
    classes=4,
    pictures=3,
)
GROUPED = replace(HOW, groups=2, classes=6, validation=0.2, test=0.2)


@pytest.fixture(scope="module")
def grouped(write_drawings: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    path = tmp_path_factory.mktemp("data") / "set.zip"
    write_drawings(path, groups=5, classes=4, pictures=5)
    return read_class_folders(path, preprocessing=SIZE)


def test_whole_classes_are_held_out(grouped: LabelledImages) -> None:
    parts = split(grouped, HOW)
    labels = [set(grouped.labels[rows].tolist()) for rows in (parts.train, parts.validation, parts.test)]
    assert [len(one) for one in labels] == [16, 2, 2]
    assert set.union(*labels) == set(range(20))


def test_whole_groups_are_held_out_where_they_count(grouped: LabelledImages) -> None:
    parts = split(grouped, GROUPED)
    groups = [
        set(grouped.groups()[grouped.labels[rows]].tolist()) for rows in (parts.train, parts.validation, parts.test)
    ]
    assert [len(one) for one in groups] == [3, 1, 1]
    assert set.union(*groups) == set(range(5))


def test_too_few_classes_are_refused(write_drawings: Callable[..., None], tmp_path: Path) -> None:
    write_drawings(tmp_path / "set.zip", groups=1, classes=3, pictures=2)
    pictures = read_class_folders(tmp_path / "set.zip", preprocessing=SIZE)
    with pytest.raises(TrainingError, match=r"^There are 3 classes; 6 are required: two to train on"):
        split(pictures, HOW)
    with pytest.raises(
        TrainingError, match=r"^There are 3 classes with at least two pictures to train on; a batch needs 4"
    ):
        Sampler(pictures, np.arange(len(pictures)), HOW)


def test_classes_of_one_picture_are_in_no_batch_and_are_told_of(
    grouped: LabelledImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = split(grouped, HOW).train
    lonely = np.unique(grouped.labels[rows])[[0, 3]]
    first = np.array([np.flatnonzero(grouped.labels == label)[0] for label in lonely])
    kept = ~np.isin(grouped.labels, lonely) | np.isin(np.arange(len(grouped)), first)
    fewer = replace(
        grouped,
        images=grouped.images[kept],
        labels=grouped.labels[kept],
        files=tuple(file for file, one in zip(grouped.files, kept, strict=True) if one),
    )
    names = tuple(grouped.classes[label] for label in lonely)
    sampler = Sampler(fewer, split(fewer, HOW).train, HOW)
    assert sampler.left_out == names
    alone = [fewer.images[fewer.labels == label][0] for label in lonely]
    for step in range(8):
        assert not any((image == one).all() for image in sampler.batch(step).images for one in alone)
    how = replace(HOW, loop=LoopConfig(steps=1, learning_rate=1e-3))
    with caplog.at_level("WARNING", "twinsight_core"):
        train_siamese(drawn(partial(SiameseNetwork, config=how.network), seed=0), fewer, how, checkpoints=tmp_path)
    assert caplog.messages == [
        "leaving out 2 classes with a single picture to train on, which makes no pair: " + ", ".join(names)
    ]


def test_a_batch_holds_pictures_of_some_classes_and_is_the_same_for_a_step(grouped: LabelledImages) -> None:
    sampler = Sampler(grouped, split(grouped, HOW).train, HOW)
    batch = sampler.batch(3)
    drawn = batch.labels[::3]
    np.testing.assert_array_equal(batch.labels, np.repeat(drawn, 3))
    assert len(set(drawn.tolist())) == 4
    assert drawn.min() >= 0
    assert drawn.max() < sampler.classes == 16
    assert batch.images.shape == (12, 8, 8, 3)
    np.testing.assert_array_equal(batch.images, sampler.batch(3).images)
    assert (batch.images != sampler.batch(4).images).any()
    places = [int(np.flatnonzero((grouped.images == image).all(axis=(1, 2, 3)))[0]) for image in batch.images]
    assert len(set(grouped.labels[places].tolist())) == 4


def test_a_batch_of_groups_is_drawn_from_few_of_them_turned_alike(grouped: LabelledImages) -> None:
    sampler = Sampler(grouped, split(grouped, GROUPED).train, replace(GROUPED, turns=True))
    known = {}
    for row, image in enumerate(grouped.images):
        for turn in range(8):
            turned = np.rot90(image, turn % 4)
            known[(turned[:, ::-1] if turn >= 4 else turned).tobytes()] = (row, turn)
    for step in range(5):
        batch = sampler.batch(step)
        places = [known[image.tobytes()] for image in batch.images]
        groups = grouped.groups()[grouped.labels[[row for row, _ in places]]]
        assert len(set(groups.tolist())) == 2
        for group in set(groups.tolist()):
            assert len({turn for (_, turn), of in zip(places, groups, strict=True) if of == group}) == 1


def test_a_label_stands_for_one_class_seen_under_one_turn_in_all_batches(grouped: LabelledImages) -> None:
    sampler = Sampler(grouped, split(grouped, GROUPED).train, replace(GROUPED, turns=True))
    known: dict[bytes, tuple[int, int]] = {}
    for label, image in zip(grouped.labels.tolist(), grouped.images, strict=True):
        for turn in range(8):
            turned = np.rot90(image, turn % 4)
            known[(turned[:, ::-1] if turn >= 4 else turned).tobytes()] = (label, turn)
    met: dict[int, set[tuple[int, int]]] = {}
    for step in range(20):
        batch = sampler.batch(step)
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
            met.setdefault(label, set()).add(known[image.tobytes()])
    assert all(len(kinds) == 1 for kinds in met.values())
    assert len(set.union(*met.values())) == len(met)
    assert max(met) < sampler.classes == 12 * 8


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_lower_where_classes_lie_apart(loss: str) -> None:
    labels = jnp.array([0, 0, 1, 1])
    apart = jnp.array([[1.0, 0.0], [0.995, 0.0998], [-1.0, 0.0], [-0.995, 0.0998]])
    mixed = apart[jnp.array([0, 2, 1, 3])]
    how = replace(HOW, loss=loss)  # type: ignore[arg-type]  # one of LOSSES
    centres = jnp.array([[2.0, 0.0], [-0.5, 0.0]])
    near, far = (float(embedding_loss(one, labels, how, centres=centres)) for one in (apart, mixed))
    assert near < 0.2 * far


def test_arcface_trains_directions_that_the_network_leaves_out(grouped: LabelledImages, tmp_path: Path) -> None:
    how = replace(
        HOW,
        network=replace(HOW.network, pooling="flatten", map_px=8, dimension=16),
        loss="arcface",
        temperature=0.2,
        augmentation=PRESETS["none"],
        loop=LoopConfig(steps=30, learning_rate=1e-2, warmup_steps=5, checkpoint_every=10),
    )
    seen: list[tuple[int, float]] = []

    class Losses:
        def on_start(self, step: int, steps: int) -> None:
            pass

        def on_steps(self, step: int, losses: dict[str, float]) -> None:
            seen.append((step, losses["loss"]))

        def on_score(self, step: int, score: float) -> None:
            pass

        def on_early_end(self, step: int, best_step: int) -> None:
            pass

    first = drawn(partial(SiameseNetwork, config=how.network), seed=0)
    trained, _, _ = train_siamese(first, grouped, how, checkpoints=tmp_path, watchers=(Losses(),))
    assert seen[-1][1] < 0.8 * seen[0][1]
    kept, before = ([place for place, _ in nnx.to_flat_state(nnx.state(one, nnx.Param))] for one in (trained, first))
    assert kept == before


def test_the_score_is_map_at_r_or_one_shot_accuracy_in_groups() -> None:
    embeddings = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    labels, groups = np.array([0, 0, 1, 1]), np.zeros(4, np.int32)
    assert validation_score(embeddings, labels, groups, HOW) == 1.0
    assert validation_score(embeddings[[0, 2, 1, 3]], labels, groups, HOW) == 0.0
    assert validation_score(embeddings, labels, groups, GROUPED) == 1.0


def test_classes_of_one_picture_do_not_count_as_ways_of_a_trial() -> None:
    embeddings = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0.6, 0.8]], np.float32)
    assert validation_score(embeddings, np.array([0, 0, 1, 1, 2]), np.zeros(5, np.int32), GROUPED) == 1.0
