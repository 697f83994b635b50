"""Training of an embedding: pulls pictures of a class together and pushes others apart.

1. Whole classes are held out, one part to choose the weights by and one for the scores; if classes come in groups
   (alphabets of characters, say), whole groups.
2. A batch holds some classes, some pictures of each. With groups it is drawn from few of them: the classes of one group
   are hard to distinguish, and those of different groups teach little.
3. Views of the pictures go through the network; the loss is one of `LOSSES`. A teacher, if there is one, adds its loss
   (`distillation`).
4. The average of the weights that retrieves pictures of the held-out classes best is kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from twinsight_core.errors import TrainingError
from twinsight_core.evaluation.one_shot import one_shot_score
from twinsight_core.evaluation.retrieval import retrieval_scores
from twinsight_core.images import Preprocessing
from twinsight_core.losses import (
    arcface,
    contrastive,
    supervised_contrastive,
    triplet_batch_hard,
    triplet_semi_hard,
)
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.float32 import in_float32
from twinsight_core.models.siamese import SiameseNetwork, pair_distance
from twinsight_core.training.augment import Augmentation, views
from twinsight_core.training.copies import distinct, first_copies
from twinsight_core.training.data import LabelledImages, split_classes
from twinsight_core.training.distillation import Teacher, taught
from twinsight_core.training.evaluate import in_batches
from twinsight_core.training.loop import Batch, LoopConfig, Trained, Watcher, train
from twinsight_core.training.parts import LabelledBatch, Parts
from twinsight_core.training.pixels import pixels_of
from twinsight_core.training.trainable import Arrays, Trainable, is_trained

_LOG = logging.getLogger(__name__)

LossName = Literal["supervised_contrastive", "arcface", "contrastive", "triplet", "triplet_semi_hard"]
LOSSES: tuple[LossName, ...] = ("supervised_contrastive", "arcface", "contrastive", "triplet", "triplet_semi_hard")
TEMPERATURES: dict[LossName, float] = {"supervised_contrastive": 0.1, "arcface": 0.03}
"""Defaults of the losses that have one."""
MOST_MARGIN: dict[LossName, float] = {
    "arcface": math.pi / 2,
    "contrastive": 2.0,
    "triplet": 2.0,
    "triplet_semi_hard": 4.0,
}
"""Largest margin of each loss that has one: an angle, a distance between unit vectors, or its square."""
CENTRES = "centres"
"""Name of the directions of "arcface" among the trained weights."""
TURNS = 8
"""Ways to see a picture by quarter turns and mirroring."""
ONE_SHOT_WAYS = 20
_NAMED = 10
"""Further classes that are left out are only counted."""

ValueAndParts = tuple[jax.Array, Arrays]
"""A loss, scalar, and its parts by name."""


@dataclass(frozen=True)
class SiameseTraining:
    """How an embedding is trained.

    Attributes:
        network: what is trained.
        preprocessing: how pictures become its input.
        classes: classes in a batch.
        pictures: pictures of each class in a batch.
        groups: groups that a batch is drawn from; 0 ignores groups.
        turns: whether a group's pictures, turned by quarters or mirrored, count as another group's: more classes if
            orientation matters (characters, not photographs).
        loss: name in `LOSSES`.
        temperature: of "supervised_contrastive"; the inverse of the scale of "arcface".
        margin: of the others: a distance, or the angle of "arcface" in radians.
        validation: share of the classes (of the groups, if they count) held out to choose the weights by.
        test: share held out for the scores.
        augmentation: how strong the views are.
        loop: how long and how fast.
    """

    network: SiameseConfig
    preprocessing: Preprocessing
    classes: int = 16
    pictures: int = 4
    groups: int = 0
    turns: bool = False
    loss: LossName = "supervised_contrastive"
    temperature: float = 0.1
    margin: float = 0.5
    validation: float = 0.1
    test: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1000, learning_rate=1e-3))


def split(pictures: LabelledImages, how: SiameseTraining) -> Parts:
    """Holds out whole classes, or whole groups if they count.

    Leaves out held-out pictures with a copy in an earlier part, and copies of others of their class.

    Raises:
        TrainingError: there are too few.
    """
    names = [name.rpartition("/")[0] if how.groups else name for name in pictures.classes]
    units = sorted(set(names))
    least = 1 if how.groups else 2
    validation, test = (max(least, round(share * len(units))) for share in (how.validation, how.test))
    kind = "groups of classes" if how.groups else "classes"
    if len(units) < validation + test + 2:
        raise TrainingError(
            f"There are {len(units)} {kind}; {validation + test + 2} are required: two to train on, the others held "
            "out for validation and the scores.",
            reason="CLASSES_TOO_FEW",
        )
    parts = split_classes(units, validation=validation, test=test)

    def rows(part: tuple[str, ...]) -> np.ndarray:
        held = np.isin(names, part)
        return np.flatnonzero(held[pictures.labels])

    def distinct_rows(part: tuple[str, ...]) -> np.ndarray:
        every = rows(part)
        kept: np.ndarray = every[distinct(pictures.labels[every], firsts[every])]
        return kept

    firsts = first_copies(pictures.images)
    train, validation_rows, test_rows = rows(parts.train), distinct_rows(parts.validation), distinct_rows(parts.test)
    validation_rows = validation_rows[~np.isin(firsts[validation_rows], firsts[train])]
    seen = firsts[np.concatenate([train, validation_rows])]
    found = Parts(train=train, validation=validation_rows, test=test_rows[~np.isin(firsts[test_rows], seen)])
    for name, held in (("validation", found.validation), ("the scores", found.test)):
        _check_held_out(pictures, held, how, name)
    return found


def _check_held_out(pictures: LabelledImages, rows: np.ndarray, how: SiameseTraining, name: str) -> None:
    """Checks that held-out pictures can be compared: two classes of two pictures, in one group if groups count."""
    counts = np.bincount(pictures.labels[rows], minlength=len(pictures.classes))
    groups = pictures.groups() if how.groups else np.zeros(len(counts), np.int32)
    if not any((counts[groups == one] > 1).sum() > 1 for one in np.unique(groups)):
        raise TrainingError(
            f"The classes held out for {name} are too few or too small: two of two pictures each are required"
            + (", in one group" if how.groups else "")
            + "; hold out more (`held-out`), or add pictures.",
            reason="CLASSES_TOO_FEW",
        )


def trainable_classes(pictures: LabelledImages, rows: np.ndarray) -> int:
    """Returns how many classes have two pictures or more among some rows, [count] int64: one makes no pair."""
    return int((np.bincount(pictures.labels[rows]) > 1).sum())


class Sampler:
    """The batches: functions of the step alone.

    Args:
        pictures: all pictures.
        rows: those that are trained on.
        how: shape of a batch.

    Attributes:
        classes: number of labels in the batches: the classes, times their turns if those count.
        left_out: names of the classes with one picture, which are in no batch.

    Raises:
        TrainingError: there are fewer classes of two or more pictures than a batch needs.
    """

    def __init__(self, pictures: LabelledImages, rows: np.ndarray, how: SiameseTraining) -> None:
        self._images = pictures.images
        self._how = how
        labels = pictures.labels[rows]
        self._rows = {int(label): rows[labels == label] for label in np.unique(labels)}
        # A single picture makes no pair with another; drawn repeatedly, it would make a pair with itself.
        self.left_out = tuple(pictures.classes[label] for label, of in self._rows.items() if len(of) < 2)
        self._rows = {label: of for label, of in self._rows.items() if len(of) > 1}
        if len(self._rows) < max(2, how.classes):
            raise TrainingError(
                f"There are {len(self._rows)} classes with at least two pictures to train on; a batch needs "
                f"{max(2, how.classes)} (`classes`).",
                reason="CLASSES_TOO_FEW",
            )
        self._numbers = {label: number for number, label in enumerate(self._rows)}
        self.classes = len(self._rows) * (TURNS if how.turns else 1)
        groups = pictures.groups()
        self._groups = [[label for label in self._rows if groups[label] == one] for one in np.unique(groups)]
        self._groups = [one for one in self._groups if one]

    def batch(self, step: int) -> LabelledBatch:
        """Returns the batch of a step; the labels are the same in all batches, 0..classes - 1."""
        how = self._how
        rng = np.random.default_rng((how.loop.seed, step))
        images, labels = [], []
        for label, turn in self._classes(rng):
            of_class = self._rows[label]
            rows = rng.choice(of_class, how.pictures, replace=len(of_class) < how.pictures)
            chosen = self._images[np.sort(rows)]
            images.append(_turned(chosen, turn))
            labels.append(np.full(how.pictures, turn * len(self._rows) + self._numbers[label], np.int32))
        return LabelledBatch(images=np.concatenate(images), labels=np.concatenate(labels))

    def _classes(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Returns the classes of a batch, each with its group's turn."""
        how = self._how
        if not how.groups:
            labels = rng.choice(list(self._rows), how.classes, replace=False)
            return [(int(label), 0) for label in labels]
        most = -(-how.classes // how.groups)
        chosen: list[tuple[int, int]] = []
        for number in rng.permutation(len(self._groups)):
            group = self._groups[int(number)]
            turn = int(rng.integers(TURNS)) if how.turns else 0
            some = rng.permutation(group)[: min(most, how.classes - len(chosen))]
            chosen += [(int(label), turn) for label in some]
            if len(chosen) == how.classes:
                break
        return chosen


def _turned(images: np.ndarray, turn: int) -> np.ndarray:
    """Returns the pictures turned by `turn` quarters, and mirrored from 4 on."""
    turned = np.rot90(images, turn % 4, axes=(1, 2))
    return turned[:, :, ::-1] if turn >= 4 else turned


def embedding_loss(
    embeddings: jax.Array, labels: jax.Array, how: SiameseTraining, *, centres: jax.Array | None = None
) -> jax.Array:
    """Returns the mean loss of a batch's embeddings, scalar.

    Args:
        embeddings: [batch, dimension] float32, unit vectors.
        labels: [batch] int32.
        how: the loss and its numbers.
        centres: [classes, dimension] float32, only for "arcface".
    """
    match how.loss:
        case "arcface":
            if centres is None:
                raise ValueError("`centres` must be given for the loss `arcface`.")
            losses = arcface(
                embeddings=embeddings, centres=centres, labels=labels, margin=how.margin, scale=1.0 / how.temperature
            )
            return jnp.mean(losses)
        case "supervised_contrastive":
            return jnp.mean(supervised_contrastive(embeddings=embeddings, labels=labels, temperature=how.temperature))
        case "triplet":
            return jnp.mean(triplet_batch_hard(embeddings=embeddings, labels=labels, margin=how.margin))
        case "triplet_semi_hard":
            return jnp.mean(triplet_semi_hard(embeddings=embeddings, labels=labels, margin=how.margin))
        case "contrastive":
            left, right = np.triu_indices(len(labels), 1)
            same = labels[left] == labels[right]
            return pair_loss(embeddings[left], embeddings[right], same, margin=how.margin)


def pair_loss(left: jax.Array, right: jax.Array, same: jax.Array, *, margin: float) -> jax.Array:
    """Returns the contrastive loss of pairs, scalar: its mean over the same pairs plus its mean over the others.

    Same pairs may be few: both kinds have the same weight, however many there are of each.

    Args:
        left: [pairs, dimension] float32, unit vectors.
        right: [pairs, dimension] float32, unit vectors.
        same: [pairs] bool.
        margin: distance beyond which other pairs cost nothing, above 0.
    """
    losses = contrastive(distance=pair_distance(left, right).euclidean, same=same, margin=margin)
    together = jnp.sum(jnp.where(same, losses, 0.0)) / jnp.maximum(jnp.sum(same), 1)
    apart = jnp.sum(jnp.where(same, 0.0, losses)) / jnp.maximum(jnp.sum(~same), 1)
    return together + apart


def validation_score(embeddings: np.ndarray, labels: np.ndarray, groups: np.ndarray, how: SiameseTraining) -> float:
    """Returns the score that the weights are chosen by, 0..1: MAP@R, or with groups the accuracy of one-shot trials."""
    if not how.groups:
        return retrieval_scores(embeddings, labels).map_at_r
    # A class of one picture makes no trial.
    several = np.isin(labels, np.flatnonzero(np.bincount(labels) > 1))
    largest = max(len(np.unique(labels[several & (groups == one)])) for one in np.unique(groups))
    ways = min(ONE_SHOT_WAYS, largest)
    return one_shot_score(
        embeddings, labels, protocol="within_alphabet", alphabets=groups, ways=ways, trials=4000
    ).accuracy


def train_siamese(
    network: SiameseNetwork,
    pictures: LabelledImages,
    how: SiameseTraining,
    *,
    checkpoints: Path,
    resume: bool = False,
    frozen_blocks: int = 0,
    teacher: Teacher | None = None,
    watchers: tuple[Watcher, ...] = (),
) -> tuple[SiameseNetwork, Parts, Trained]:
    """Trains a network and returns it in evaluation mode, with the parts of the pictures and how it ended.

    Args:
        network: with its first weights; in evaluation mode its batch norm's statistics stay as they are.
        pictures: at the network's size.
        how: the numbers.
        checkpoints: folder of the checkpoints.
        resume: continue from the newest checkpoint.
        frozen_blocks: first blocks of the backbone that stay as they are, like its stem.
        teacher: an embedding to learn from; None for none.
        watchers: receive the progress.

    Raises:
        TrainingError: there are too few classes, or the run can't continue.
    """
    parts = split(pictures, how)
    sampler = Sampler(pictures, parts.train, how)
    if left_out := sampler.left_out:
        more = ", ..." if len(left_out) > _NAMED else ""
        _LOG.warning(
            "leaving out %d classes with a single picture to train on, which makes no pair: %s%s",
            len(left_out),
            ", ".join(left_out[:_NAMED]),
            more,
        )
    beside: Arrays = {}
    if how.loss == "arcface":
        # The directions of the training classes are trained with the network, but are not part of it.
        shape = (sampler.classes, how.network.dimension)
        beside = {CENTRES: jax.random.normal(jax.random.key(how.loop.seed), shape)}

    def loss(network: SiameseNetwork, params: Arrays, batch: LabelledBatch, key: jax.Array) -> ValueAndParts:
        seen = views(key, jnp.asarray(batch.images), how=how.augmentation)
        embeddings = network(seen)
        labels = embedding_loss(embeddings, jnp.asarray(batch.labels), how, centres=params.get(CENTRES))
        return taught(teacher, labels=labels, views=seen, answers=embeddings)

    labels = pictures.labels[parts.validation]
    groups = pictures.groups()[labels]
    trained, ended = train_embedding(
        network,
        loss=loss,
        batch=sampler.batch,
        held=pixels_of(pictures.images, parts.validation),
        score=lambda embeddings: validation_score(embeddings, labels, groups, how),
        config=how.loop,
        beside=beside,
        checkpoints=checkpoints,
        resume=resume,
        frozen_blocks=frozen_blocks,
        watchers=watchers,
    )
    return trained, parts, ended


def train_embedding(
    network: SiameseNetwork,
    *,
    loss: Callable[[SiameseNetwork, Arrays, Batch, jax.Array], ValueAndParts],
    batch: Callable[[int], Batch],
    held: np.ndarray,
    score: Callable[[np.ndarray], float],
    config: LoopConfig,
    beside: Arrays,
    checkpoints: Path,
    resume: bool,
    frozen_blocks: int,
    watchers: tuple[Watcher, ...],
) -> tuple[SiameseNetwork, Trained]:
    """Trains a network with a loss over its embeddings; returns it in evaluation mode, and how the run ended.

    Args:
        network: with its first weights; in evaluation mode its batch norm's statistics stay as they are.
        loss: of a network with the trained weights, those weights by name, a batch and a random key; a scalar, and its
            parts by name.
        batch: the batch of a step.
        held: [count, height, width, 3] uint8, RGB, 0..255; the pictures to choose the weights by.
        score: of their embeddings, [count, dimension] float32; higher is better.
        config: how long and how fast.
        beside: weights that are trained beside the network's.
        checkpoints: folder of the checkpoints.
        resume: continue from the newest checkpoint.
        frozen_blocks: first blocks of the backbone that stay as they are, like its stem.
        watchers: receive the progress.

    Raises:
        TrainingError: the run can't continue.
    """
    trainable = Trainable(network, trained=partial(is_trained, frozen_blocks=frozen_blocks))

    def seen_loss(
        params: Arrays, stats: Arrays, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Arrays, Arrays]]:
        seen = trainable.network(params, stats)
        value, parts = loss(seen, params, batch, key)
        return value, (trainable.stats_of(seen), parts)

    embed = jax.jit(in_float32(lambda params, stats, images: trainable.evaluated(params, stats)(images)))
    ended = train(
        trainable.params | beside,
        trainable.stats,
        loss=seen_loss,
        batch=batch,
        config=config,
        checkpoints=checkpoints,
        resume=resume,
        score=lambda params, stats: score(in_batches(partial(embed, params, stats), held)),
        watchers=watchers,
    )
    return trainable.evaluated(ended.params, ended.stats), ended
