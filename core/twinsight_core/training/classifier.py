"""Training of a classifier on class folders, even if some classes have few pictures.

1. Of every class one part of the pictures is held out to choose the weights by, and one for the scores; exact copies of
   a picture are in the same part.
2. Batches are drawn at random, or class by class; the loss is softmax cross-entropy, or one made for imbalance.
3. A teacher, if there is one, adds its loss to that of the labels (`distillation`).
4. The average of the weights with the best balanced accuracy on the validation part is kept.
5. The same part determines the temperature that calibrates the probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from twinsight_core.errors import TrainingError
from twinsight_core.evaluation.classification import classification_score, fit_temperature
from twinsight_core.evaluation.weighting import even_class_weights
from twinsight_core.images import Preprocessing
from twinsight_core.losses import cross_entropy, effective_number_weights, focal, logit_adjusted
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.float32 import in_float32
from twinsight_core.packages import check_labels
from twinsight_core.training.augment import Augmentation, views
from twinsight_core.training.copies import first_copies, in_order, in_two_classes
from twinsight_core.training.data import LabelledImages
from twinsight_core.training.distillation import Distillation, Teacher, taught
from twinsight_core.training.evaluate import in_batches
from twinsight_core.training.loop import LoopConfig, Trained, Watcher, train
from twinsight_core.training.parts import LabelledBatch, Parts
from twinsight_core.training.pixels import pixels_of
from twinsight_core.training.trainable import Arrays, Trainable, is_trained

Balance = Literal["none", "sampling", "effective_number", "focal", "logit_adjusted"]
BALANCES: tuple[Balance, ...] = ("none", "sampling", "effective_number", "focal", "logit_adjusted")
EVEN_ODDS: frozenset[Balance] = frozenset({"sampling", "logit_adjusted"})
"""What of it makes probabilities those of a picture that is of each class alike beforehand, however rare some are."""
EVEN_ODDS_STATED = "Probabilities are as if all classes were equally frequent."
"""In the card of such a model, where its training data are stated."""

LEAST_PICTURES = 3
"""Of a class: one for each part."""


@dataclass(frozen=True)
class ClassifierTraining:
    """How a classifier is trained.

    Attributes:
        network: what is trained.
        preprocessing: how pictures become its input.
        batch: pictures in a batch.
        balance: how to balance classes of different sizes: "none"; "sampling" draws all classes equally often;
            "effective_number" weighs the loss, "focal" and "logit_adjusted" change it (see `twinsight_core.losses`).
        smoothing: label smoothing of the cross-entropy, 0..1; "focal" and "logit_adjusted" have none.
        validation: share of each class's pictures held out to choose the weights by.
        test: share of each class's pictures held out for the scores.
        augmentation: how strong the views are.
        loop: how long and how fast.
    """

    network: ClassifierConfig
    preprocessing: Preprocessing
    batch: int = 64
    balance: Balance = "logit_adjusted"
    smoothing: float = 0.1
    validation: float = 0.1
    test: float = 0.2
    augmentation: Augmentation = field(default_factory=Augmentation)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=600, learning_rate=1e-3))


def split(pictures: LabelledImages, how: ClassifierTraining) -> Parts:
    """Holds out pictures of every class, chosen only by their paths: every run holds out the same ones.

    Copies of a picture are held out together. Copies in two classes are never held out, since they can't be scored.

    Raises:
        TrainingError: there is one class, or a class has too few pictures, copies counted once.
        PackageError: the names of the classes are too long for a card.
    """
    check_labels(pictures.classes)
    if len(pictures.classes) < 2:
        raise TrainingError(
            f"There is one class (`{', '.join(pictures.classes)}`); a classifier needs at least two.",
            reason="CLASSES_TOO_FEW",
        )
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    firsts = first_copies(pictures.images)
    shared = in_two_classes(pictures.labels, firsts)
    order = np.array(in_order(pictures.files, firsts), np.int64)
    for label, name in enumerate(pictures.classes):
        rows = order[pictures.labels[order] == label]
        parts[0].extend(rows[shared[rows]].tolist())
        own = rows[~shared[rows]]
        # Where the next picture differs from the one before.
        ends = np.flatnonzero(np.append(np.diff(firsts[own]) != 0, True)) + 1 if len(own) else own
        differing = len(ends) + int(shared[rows].any())
        if differing < LEAST_PICTURES:
            raise TrainingError(
                f"The class `{name}` has {len(rows)} pictures"
                + (f" (copies, and those in two classes, counted once: {differing})" if differing < len(rows) else "")
                + f"; it needs at least {LEAST_PICTURES}: one each to train on, to choose by and for the scores.",
                reason="CLASS_TOO_SMALL",
            )
        # A held-out part ends with a whole group of copies, and leaves at least one for each later part.
        last = len(ends) - int(not shared[rows].any())
        test = _end(ends[: last - 1], max(1, round(how.test * len(rows))))
        validation = _end(ends[:last], test + max(1, min(round(how.validation * len(rows)), len(rows) - test - 1)))
        parts[2].extend(own[:test].tolist())
        parts[1].extend(own[test:validation].tolist())
        parts[0].extend(own[validation:].tolist())
    train_rows, validation_rows, test_rows = (np.sort(np.array(rows, np.int64)) for rows in parts)
    return Parts(train=train_rows, validation=validation_rows, test=test_rows)


def _end(ends: np.ndarray, wanted: int) -> int:
    """Returns the first of some rising places that is at least `wanted`, or the last."""
    return int(ends[min(int(np.searchsorted(ends, wanted)), len(ends) - 1)])


class Sampler:
    """The batches: functions of the step alone.

    Args:
        pictures: all pictures.
        rows: those that are trained on.
        how: size of a batch, and whether classes are drawn equally often.
    """

    def __init__(self, pictures: LabelledImages, rows: np.ndarray, how: ClassifierTraining) -> None:
        self._pictures = pictures
        self._rows = rows
        self._how = how
        labels = pictures.labels[rows]
        self._by_class = [rows[labels == label] for label in range(len(pictures.classes))]

    def batch(self, step: int) -> LabelledBatch:
        """Returns the batch of a step."""
        how = self._how
        rng = np.random.default_rng((how.loop.seed, step))
        if how.balance == "sampling":
            labels = rng.permutation(np.resize(rng.permutation(len(self._by_class)), how.batch))
            rows = np.array([rng.choice(self._by_class[label]) for label in labels])
        else:
            rows = rng.choice(self._rows, how.batch, replace=len(self._rows) < how.batch)
        return LabelledBatch(images=self._pictures.images[rows], labels=self._pictures.labels[rows])


def classification_loss(logits: jax.Array, labels: jax.Array, how: ClassifierTraining, counts: np.ndarray) -> jax.Array:
    """Returns the mean loss of a batch, scalar.

    Args:
        logits: [batch, classes] float32.
        labels: [batch] integer.
        how: says which loss.
        counts: [classes] training pictures of each class.
    """
    match how.balance:
        case "effective_number":
            weights = jnp.asarray(effective_number_weights(counts), jnp.float32)
            losses = cross_entropy(logits=logits, labels=labels, smoothing=how.smoothing, class_weights=weights)
        case "focal":
            losses = focal(logits=logits, labels=labels)
        case "logit_adjusted":
            prior = jnp.asarray(counts / counts.sum(), jnp.float32)
            losses = logit_adjusted(logits=logits, labels=labels, prior=prior)
        case _:
            losses = cross_entropy(logits=logits, labels=labels, smoothing=how.smoothing)
    return jnp.mean(losses)


def has_even_odds(balance: Balance, distillation: Distillation | None = None) -> bool:
    """Returns whether a classifier learns the probabilities of equally frequent classes, from labels and teacher."""
    is_balanced = balance in EVEN_ODDS
    if distillation is None:
        return is_balanced
    is_taught = EVEN_ODDS_STATED in distillation.teacher.card.training_data
    return is_taught and (is_balanced or distillation.weight == 1.0)


def train_classifier(
    network: Classifier,
    pictures: LabelledImages,
    how: ClassifierTraining,
    *,
    checkpoints: Path,
    resume: bool = False,
    frozen_blocks: int = 0,
    teacher: Teacher | None = None,
    even_odds: bool | None = None,
    watchers: tuple[Watcher, ...] = (),
) -> tuple[Classifier, Parts, Trained]:
    """Trains a network and returns it in evaluation mode with its temperature set, the parts, and how it ended.

    Args:
        network: with its first weights; in evaluation mode its batch norm's statistics stay as they are.
        pictures: at the network's size.
        how: the numbers.
        checkpoints: folder of the checkpoints.
        resume: continue from the newest checkpoint.
        frozen_blocks: first blocks of the backbone that stay as they are, like its stem.
        teacher: a classifier of the same classes to learn from; None for none.
        even_odds: `has_even_odds`; None: of its balance, without a teacher.
        watchers: receive the progress.

    Raises:
        TrainingError: there are too few pictures, or the run can't continue.
    """
    parts = split(pictures, how)
    sampler = Sampler(pictures, parts.train, how)
    counts = np.bincount(pictures.labels[parts.train], minlength=len(pictures.classes))
    trainable = Trainable(network, trained=partial(is_trained, frozen_blocks=frozen_blocks))

    def loss(
        params: Arrays, stats: Arrays, batch: LabelledBatch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Arrays, Arrays]]:
        made = trainable.network(params, stats)
        seen = views(key, jnp.asarray(batch.images), how=how.augmentation)
        logits = made.logits(seen)
        labels = classification_loss(logits, jnp.asarray(batch.labels), how, counts)
        value, of_value = taught(teacher, labels=labels, views=seen, answers=logits)
        return value, (trainable.stats_of(made), of_value)

    run = jax.jit(in_float32(lambda params, stats, images: trainable.evaluated(params, stats).logits(images)))
    held, labels = pixels_of(pictures.images, parts.validation), pictures.labels[parts.validation]

    def score(params: Arrays, stats: Arrays) -> float:
        return classification_score(in_batches(partial(run, params, stats), held), labels).balanced_accuracy

    trained = train(
        trainable.params,
        trainable.stats,
        loss=loss,
        batch=sampler.batch,
        config=how.loop,
        checkpoints=checkpoints,
        resume=resume,
        score=score,
        watchers=watchers,
    )
    logits = in_batches(partial(run, trained.params, trained.stats), held)
    if even_odds is None:
        even_odds = has_even_odds(how.balance)
    # A temperature makes no other probabilities of those of equally frequent classes.
    weights = even_class_weights(labels) if even_odds else None
    temperature = fit_temperature(logits, labels, weights=weights)
    return at_temperature(trainable.evaluated(trained.params, trained.stats), how.network, temperature), parts, trained


def at_temperature(network: Classifier, config: ClassifierConfig, temperature: float) -> Classifier:
    """Returns the same network with another temperature, in evaluation mode."""
    changed = nnx.eval_shape(lambda: Classifier(config=replace(config, temperature=temperature), rngs=nnx.Rngs(0)))
    nnx.update(changed, nnx.state(network))
    changed.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    return changed
