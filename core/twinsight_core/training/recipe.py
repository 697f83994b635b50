"""The inputs of a training run: the numbers of a recipe, the pictures, and the teacher's features of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from twinsight_core.images import Preprocessing
from twinsight_core.importing.keras_mobilenet import load_keras_mobilenet
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.mobilenet import MobileNetV1
from twinsight_core.training.augment import Augmentation
from twinsight_core.training.data import (
    ClassSplit,
    LabelledImages,
    PictureSource,
    decode_files,
    read_class_folders,
    split_classes,
)
from twinsight_core.training.loop import LoopConfig
from twinsight_core.training.sampling import Share, rows_by_class, sample_rows
from twinsight_core.training.teacher import Projection, fit_projection, teacher_features, unit_rows

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetConfig:
    """One set of pictures and its part in training.

    Attributes:
        name: prefix of the scores.
        file: name in the data folder.
        validation: classes held out to choose by.
        test: classes held out for the scores.
        classes: training classes in each batch.
    """

    name: str
    file: str
    validation: int
    test: int
    classes: int


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe.

    Attributes:
        sets: the pictures.
        teacher: the teacher's weights in the data folder.
        teacher_network: the network that they are of; the student starts as it.
        teacher_px: sides of the teacher's input; the target is the mean of its unit features at all of them.
        reference_px: the one of them that the student is compared with in the scores.
        size_px: side of the student's input in training.
        served_px: side of its input when it is measured and served. A crop shows things larger than the whole picture
            does; a larger input gives them the size that was trained on. Source: Touvron et al., "Fixing the
            train-test resolution discrepancy", NeurIPS 2019.
        network: the student.
        frozen_blocks: blocks of the backbone that stay as the teacher's, beside its stem.
        pictures: pictures of each class in a batch.
        distillation: weight of the distillation loss.
        distillation_temperature: its temperature.
        contrastive: weight of the supervised contrastive loss.
        contrastive_temperature: its temperature.
        augmentation: how strong the views are.
        loop: how long and how fast.
    """

    sets: tuple[SetConfig, ...]
    teacher: str
    teacher_network: MobileNetConfig
    teacher_px: tuple[int, ...]
    reference_px: int
    size_px: int
    served_px: int
    network: SiameseConfig
    frozen_blocks: int
    pictures: int
    distillation: float
    distillation_temperature: float
    contrastive: float
    contrastive_temperature: float
    augmentation: Augmentation
    loop: LoopConfig

    @property
    def served(self) -> Preprocessing:
        """How pictures become the served model's input."""
        return Preprocessing(height_px=self.served_px, width_px=self.served_px)


class Batch(NamedTuple):
    """One step's pictures.

    Attributes:
        images: [batch, height, width, 3] uint8, RGB, 0..255.
        labels: [batch] int32, class in the training set.
        rows: [batch] int32, row in the training set.
    """

    images: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array
    rows: np.ndarray | jax.Array


@dataclass(frozen=True)
class LoadedSet:
    """One set of pictures as read.

    Attributes:
        config: what the recipe says of it.
        path: its source.
        pictures: all of it, at the size that the student is trained at.
        split: its classes' parts.
        teacher: the teacher's features of all of it by the side of its input, [count, channels] float32, unit vectors.
    """

    config: SetConfig
    path: Path
    pictures: LabelledImages
    split: ClassSplit
    teacher: dict[int, np.ndarray]

    def rows(self, classes: tuple[str, ...]) -> np.ndarray:
        """Returns the rows of the pictures of some classes, sorted."""
        wanted = np.isin(self.pictures.classes, classes)
        return np.flatnonzero(wanted[self.pictures.labels])

    def decoded(self, rows: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
        """Returns some of the pictures at another size, [count, height, width, 3] uint8, RGB, 0..255."""
        files = [self.pictures.files[row] for row in rows]
        return decode_files(PictureSource(self.path), files, preprocessing=preprocessing)


class TrainingSet:
    """The training classes of all sets, and the teacher's view of them.

    Args:
        recipe: the numbers.
        sets: what was read.

    Attributes:
        projection: the teacher's features to targets.
        targets: [count, dimension] float32, unit vectors.
    """

    def __init__(self, recipe: Recipe, sets: list[LoadedSet]) -> None:
        self._recipe = recipe
        self._images, self._labels, features, shares = [], [], [], []
        self._place: list[tuple[int, int]] = []
        first_row, first_label = 0, 0
        for number, one in enumerate(sets):
            rows = one.rows(one.split.train)
            labels = one.pictures.labels[rows]
            self._images.append(one.pictures.images)
            self._place.extend((number, int(row)) for row in rows)
            self._labels.append(labels + first_label)
            features.append(np.mean([values[rows] for values in one.teacher.values()], axis=0))
            shares.append(Share(rows=rows_by_class(labels, first=first_row), classes=one.config.classes))
            first_row, first_label = first_row + len(rows), first_label + len(one.pictures.classes)
        self._shares = shares
        self._all_labels = np.concatenate(self._labels)
        # Sets of different sizes count alike, so that the largest does not choose the directions alone.
        rng = np.random.default_rng(recipe.loop.seed)
        most = 2 * min(len(part) for part in features)
        balanced = [part[rng.permutation(len(part))[:most]] for part in features]
        self.projection: Projection = fit_projection(np.concatenate(balanced), dimension=recipe.network.dimension)
        self.targets = self.projection(np.concatenate(features))

    def batch(self, step: int) -> Batch:
        """Returns the pictures of a step."""
        rows = sample_rows(self._shares, pictures=self._recipe.pictures, seed=self._recipe.loop.seed, step=step)
        places = [self._place[row] for row in rows]
        images = np.stack([self._images[number][row] for number, row in places])
        return Batch(images=images, labels=self._all_labels[rows], rows=rows.astype(np.int32))


def load_teacher(recipe: Recipe, data: Path) -> MobileNetV1:
    """Returns the teacher's backbone in evaluation mode."""
    # Shapes alone: every weight comes from the file.
    backbone = nnx.eval_shape(
        lambda: MobileNetV1(width_multiplier=recipe.teacher_network.width_multiplier, rngs=nnx.Rngs(0))
    )
    load_keras_mobilenet(backbone, data / recipe.teacher)
    backbone.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    return backbone


def load_sets(recipe: Recipe, data: Path, cache: Path, backbone: MobileNetV1 | None) -> list[LoadedSet]:
    """Reads the recipe's pictures and the teacher's features of them; without a backbone, no features."""
    preprocessing = Preprocessing(height_px=recipe.size_px, width_px=recipe.size_px)
    loaded = []
    for config in recipe.sets:
        path = data / config.file
        _LOG.info("reading %s", path.name)
        pictures = read_class_folders(path, preprocessing=preprocessing, cache_dir=cache)
        features = {}
        if backbone is not None:
            for size in recipe.teacher_px:
                kept = cache / f"{path.stem}-teacher-{size}.npy"
                features[size] = unit_rows(teacher_features(backbone, path, pictures, size_px=size, cache=kept))
        split = split_classes(pictures.classes, validation=config.validation, test=config.test)
        loaded.append(LoadedSet(config=config, path=path, pictures=pictures, split=split, teacher=features))
    return loaded
