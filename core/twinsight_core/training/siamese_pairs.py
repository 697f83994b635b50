"""Training of an embedding from a list of pairs: pulls same pairs together and pushes different ones apart.

1. The pictures of the list are decoded; unreadable ones are all reported, or left out with their pairs.
2. Pairs are held out, one part to choose the weights by and one for the scores; no picture is in two parts.
3. A batch holds as many same pairs as different ones. Views of both sides go through the network as one batch; the loss
   is contrastive. A teacher, if there is one, adds its loss (`distillation`).
4. The average of the weights that best separates the held-out same pairs from the different ones is kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twinsight_core.calibration import ScoredPairs
from twinsight_core.evaluation.verification import area_under, roc_curve
from twinsight_core.images import Preprocessing
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.training.augment import Augmentation, views
from twinsight_core.training.copies import counted_once, first_copies
from twinsight_core.training.data import PictureSource, decode_readable, told_flaws, unreadable_pictures
from twinsight_core.training.distillation import Teacher, taught
from twinsight_core.training.loop import LoopConfig, Trained, Watcher
from twinsight_core.training.pairs import PairList, deal, read_pairs, without
from twinsight_core.training.parts import Parts
from twinsight_core.training.pixels import pixels_of
from twinsight_core.training.siamese import ValueAndParts, pair_loss, train_embedding
from twinsight_core.training.trainable import Arrays

_PARTS_SEED = 0


@dataclass(frozen=True)
class PairTraining:
    """How an embedding is trained from pairs.

    Attributes:
        batch: pairs in a batch, 2 or more.
        margin: distance beyond which different pairs cost nothing, above 0.
        validation: share of the pairs that is held out to choose by.
        test: share that is held out for the scores.
        augmentation: how strong the views are.
        loop: how long and how fast.

    Raises:
        ValueError: a batch would have no pairs of one kind.
    """

    batch: int = 32
    margin: float = 0.5
    validation: float = 0.1
    test: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1000, learning_rate=1e-3))

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise ValueError(f"`batch` (={self.batch}) must be at least 2.")


@dataclass(frozen=True)
class PairPictures:
    """A list of pairs with its pictures.

    Attributes:
        images: [files, height, width, 3] uint8, RGB, 0..255; in the order of `pairs.files`.
        pairs: the list.
        skipped: unreadable pictures, left out with their pairs: the path of each and what is wrong with it.
    """

    images: np.ndarray
    pairs: PairList
    skipped: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the pairs in their order: paths, truth and folds."""
        rows = zip(*(one.tolist() for one in _columns(self.pairs)), strict=True)
        return hashlib.sha256(json.dumps([self.pairs.files, *rows]).encode()).hexdigest()

    def scored(self, embeddings: np.ndarray, rows: np.ndarray) -> ScoredPairs:
        """Returns the cosines of some pairs.

        Args:
            embeddings: [needed, dimension] float32, unit vectors; of the pictures that `needed(rows)` names.
            rows: [count] int64, which pairs.
        """
        places = np.searchsorted(self.needed(rows), np.stack([self.pairs.left[rows], self.pairs.right[rows]]))
        left, right = embeddings[places]
        return ScoredPairs(cosine=np.sum(left * right, axis=1), same=self.pairs.same[rows])

    def needed(self, rows: np.ndarray) -> np.ndarray:
        """Returns the pictures that some pairs consist of, [needed] int64, rising.

        Args:
            rows: [count] int64, which pairs.
        """
        return np.union1d(self.pairs.left[rows], self.pairs.right[rows])


def _columns(pairs: PairList) -> list[np.ndarray]:
    return [pairs.left, pairs.right, pairs.same, *([] if pairs.folds is None else [pairs.folds])]


def read_pair_pictures(
    data: Path, listed: Path, *, preprocessing: Preprocessing, skip_bad: bool = False
) -> PairPictures:
    """Reads a list of pairs and the pictures that it names.

    Args:
        data: folder or zip with the pictures.
        listed: the list.
        preprocessing: how pictures become pixels.
        skip_bad: leave out pictures that can't be read, with the pairs that need them.

    Raises:
        TrainingError: the list breaks a rule, contradicts itself or names pictures that do not exist; or pictures can't
            be read, and must not be left out or leave no pair. All such lines or pictures are listed.
    """
    source = PictureSource(data, class_folders=False)
    pairs = read_pairs(listed, source.files)
    images, flaws = decode_readable(source, pairs.files, preprocessing)
    if not flaws:
        return PairPictures(images=images, pairs=counted_once(replace(pairs, firsts=first_copies(images))))
    kept = without(pairs, flaws)
    if not (skip_bad and kept.files):
        raise unreadable_pictures(source.path, flaws)
    # A readable picture may no longer be in any pair.
    needed = np.isin([file for file in pairs.files if file not in flaws], kept.files)
    images = pixels_of(images, np.flatnonzero(needed))
    return PairPictures(
        images=images, pairs=counted_once(replace(kept, firsts=first_copies(images))), skipped=told_flaws(flaws)
    )


def split(pairs: PairList, how: PairTraining) -> Parts:
    """Holds out pairs: whole folds, or those linked by a picture or a folder; the same ones whatever the run's seed.

    Returns:
        Rows of the pairs in each part.

    Raises:
        TrainingError: there is no such split with pairs of both kinds in each part.
    """
    parts = deal(
        pairs,
        {"training": 1 - how.validation - how.test, "validation": how.validation, "the scores": how.test},
        seed=_PARTS_SEED,
        remedy="hold out more (`held-out`), leave out pairs that link too many pictures, or give a FOLD column that "
        "allows it",
    )
    train, validation, test = (np.flatnonzero(part) for part in parts.values())
    return Parts(train=train, validation=validation, test=test)


class PairBatch(NamedTuple):
    """The input of one step.

    Attributes:
        left: [pairs, height, width, 3] uint8, RGB, 0..255.
        right: [pairs, height, width, 3] uint8, RGB, 0..255.
        same: [pairs] bool; true for half of them, in an odd batch for one fewer than false.
    """

    left: np.ndarray
    right: np.ndarray
    same: np.ndarray


class PairSampler:
    """The batches: functions of the step alone.

    Args:
        pictures: all pairs.
        rows: [count] int64, the pairs that are trained on; of both kinds.
        how: shape of a batch.
    """

    def __init__(self, pictures: PairPictures, rows: np.ndarray, how: PairTraining) -> None:
        self._pictures = pictures
        self._how = how
        same = pictures.pairs.same[rows]
        self._kinds = ((rows[same], how.batch // 2), (rows[~same], how.batch - how.batch // 2))

    def batch(self, step: int) -> PairBatch:
        """Returns the batch of a step, without repeated pairs if there are enough."""
        rng = np.random.default_rng((self._how.loop.seed, step))
        rows = np.concatenate([rng.choice(kind, count, replace=len(kind) < count) for kind, count in self._kinds])
        images, pairs = self._pictures.images, self._pictures.pairs
        return PairBatch(left=images[pairs.left[rows]], right=images[pairs.right[rows]], same=pairs.same[rows])


def train_on_pairs(
    network: SiameseNetwork,
    pictures: PairPictures,
    how: PairTraining,
    *,
    checkpoints: Path,
    resume: bool = False,
    frozen_blocks: int = 0,
    teacher: Teacher | None = None,
    watchers: tuple[Watcher, ...] = (),
) -> tuple[SiameseNetwork, Parts, Trained]:
    """Trains a network and returns it in evaluation mode, with the parts of the pairs and how it ended.

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
        TrainingError: pairs can't be held out, or the run can't continue.
    """
    parts = split(pictures.pairs, how)

    def loss(network: SiameseNetwork, params: Arrays, batch: PairBatch, key: jax.Array) -> ValueAndParts:
        del params
        both = jnp.concatenate([jnp.asarray(batch.left), jnp.asarray(batch.right)])
        seen = views(key, both, how=how.augmentation)
        embeddings = network(seen)
        left, right = jnp.split(embeddings, 2)
        labels = pair_loss(left, right, jnp.asarray(batch.same), margin=how.margin)
        return taught(teacher, labels=labels, views=seen, answers=embeddings)

    trained, ended = train_embedding(
        network,
        loss=loss,
        batch=PairSampler(pictures, parts.train, how).batch,
        held=pixels_of(pictures.images, pictures.needed(parts.validation)),
        score=lambda embeddings: area_under(roc_curve(pictures.scored(embeddings, parts.validation))),
        config=how.loop,
        beside={},
        checkpoints=checkpoints,
        resume=resume,
        frozen_blocks=frozen_blocks,
        watchers=watchers,
    )
    return trained, parts, ended
