"""Training of a detector.

1. A batch is some pictures, in a new random order each epoch; their views are made on the device, with their boxes.
2. The loss is the sum of four parts: is there a thing, where is it, what is it, where exactly.
3. The average of the weights with the best average precision at an overlap of 0.50 on held-out pictures is kept.

With few pictures per step, batch norm's statistics would be noise: the backbone starts trained and its batch norm stays
in evaluation mode. Its first blocks see edges and colours, which are the same everywhere, and can be frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twinsight_core.errors import TrainingError
from twinsight_core.evaluation.detection import DetectionScore, FoundBoxes, TrueBoxes, detection_score
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.float32 import in_float32
from twinsight_core.models.rcnn import FasterRCNN, Sampling
from twinsight_core.training.box_augment import BoxAugmentation, boxed_views
from twinsight_core.training.boxes import BoxedImages
from twinsight_core.training.evaluate import in_batches
from twinsight_core.training.loop import LoopConfig, Trained, Watcher, train
from twinsight_core.training.trainable import Arrays, Trainable, is_trained

_EVALUATION_BATCH = 8

AUGMENTATIONS: dict[str, BoxAugmentation] = {
    "photographs": BoxAugmentation(),
    "no-upright": BoxAugmentation(mirror_y=0.5),  # microscopes and satellites: nothing is up or down
}
"""Kinds of pictures, by the name that the command line takes."""


@dataclass(frozen=True)
class DetectorTraining:
    """How a detector is trained.

    Attributes:
        network: what is trained.
        batch: pictures in a step.
        sampling: what is drawn of each picture.
        augmentation: how strong the views are.
        loop: how long and how fast.
    """

    network: FasterRCNNConfig
    batch: int = 8
    sampling: Sampling = field(default_factory=Sampling)
    augmentation: BoxAugmentation = field(default_factory=BoxAugmentation)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2000, learning_rate=1e-3))


class DetectorBatch(NamedTuple):
    """The input of one step.

    Attributes:
        images: [batch, height, width, 3] uint8, RGB, 0..255.
        boxes: [batch, boxes, 4] float32, fractions of the picture.
        labels: [batch, boxes] int32.
        valid: [batch, boxes] bool, which of them are things to find.
        ignored: [batch, boxes] bool, which of the others are ignored regions, which are not background.
    """

    images: np.ndarray | jax.Array
    boxes: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array
    valid: np.ndarray | jax.Array
    ignored: np.ndarray | jax.Array


class DetectorSampler:
    """The batches: functions of the step alone; every picture comes once before any is repeated.

    They are consecutive pieces of one stream of random orders of all pictures; a batch may hold the end of one order
    and the start of the next, and so a picture twice.

    Args:
        data: the pictures to train on.
        batch: pictures in a step.
        seed: of the order.

    Raises:
        TrainingError: there are fewer pictures than in a batch.
    """

    def __init__(self, data: BoxedImages, *, batch: int, seed: int) -> None:
        if len(data) < batch:
            raise TrainingError(
                f"There are {len(data)} pictures to train on; a batch needs {batch}.", reason="PICTURES_TOO_FEW"
            )
        self._data, self._batch, self._seed = data, batch, seed

    def batch(self, step: int) -> DetectorBatch:
        """Returns the pictures of a step."""
        data = self._data
        start, count = step * self._batch, len(data)
        first, last = start // count, (start + self._batch - 1) // count
        orders = [np.random.default_rng([self._seed, turn]).permutation(count) for turn in range(first, last + 1)]
        rows = np.sort(np.concatenate(orders)[start - first * count :][: self._batch])
        return DetectorBatch(
            images=data.images[rows],
            boxes=data.boxes[rows],
            labels=data.labels[rows],
            valid=data.valid[rows],
            ignored=data.ignored[rows],
        )


def detector_loss(
    network: FasterRCNN,
    batch: DetectorBatch,
    key: jax.Array,
    *,
    sampling: Sampling | None = None,
    augmentation: BoxAugmentation | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of a batch and its parts by name, all scalars; may be called under jit and grad.

    Source: the four parts have equal weight, as in Ren et al., "Faster R-CNN", TPAMI 2017, section 3.2.

    Args:
        network: batch norm follows its mode.
        batch: the pictures.
        key: random key.
        sampling: what is drawn of each picture; None for the defaults.
        augmentation: how strong the views are; None for unchanged pictures.
    """
    view, draw = jax.random.split(key)
    images, boxes, labels, valid, ignored = (jnp.asarray(one) for one in batch)
    if augmentation is not None:
        images, boxes, valid, ignored = boxed_views(view, images, boxes, valid, ignored, how=augmentation)
    losses = network.losses(images, boxes, labels, valid, draw, sampling=sampling, ignored=ignored)
    parts = {name: jnp.mean(value) for name, value in losses._asdict().items()}
    return sum(parts.values(), jnp.zeros(())), parts


def true_boxes(data: BoxedImages) -> list[TrueBoxes]:
    """Returns the things to find in each picture."""
    return [
        TrueBoxes(
            boxes=boxes[valid],
            labels=labels[valid],
            height_px=int(height),
            width_px=int(width),
            ignored_boxes=boxes[ignored],
            ignored_labels=labels[ignored],
        )
        for boxes, labels, valid, ignored, (height, width) in zip(
            data.boxes, data.labels, data.valid, data.ignored, data.sizes, strict=True
        )
    ]


def found_boxes(answers: np.ndarray) -> list[FoundBoxes]:
    """Returns the detections in a network's outputs for each picture.

    Args:
        answers: [count, max_detections, 6] float32.
    """
    return [FoundBoxes.from_rows(rows) for rows in answers]


def train_detector(
    network: FasterRCNN,
    training: BoxedImages,
    validation: BoxedImages,
    how: DetectorTraining,
    *,
    checkpoints: Path,
    resume: bool = False,
    frozen_blocks: int = 0,
    watchers: tuple[Watcher, ...] = (),
) -> tuple[FasterRCNN, Trained, DetectionScore]:
    """Trains a network and returns it in evaluation mode, with how the run ended and its score on `validation`.

    Args:
        network: with its first weights; in evaluation mode its batch norm's statistics stay as they are.
        training: pictures to learn from, at the network's size.
        validation: pictures to choose the weights by, of the same classes.
        how: the numbers.
        checkpoints: folder of the checkpoints.
        resume: continue from the newest checkpoint.
        frozen_blocks: first blocks of the backbone that stay as they are, like its stem.
        watchers: receive the progress.

    Raises:
        TrainingError: there are too few pictures, the classes differ, or the run can't continue.
    """
    if training.classes != validation.classes or len(training.classes) != how.network.classes:
        raise TrainingError(
            f"The classes to train on {training.classes} and to choose by {validation.classes} must both be the "
            f"network's {how.network.classes}.",
            reason="CLASSES_DIFFER",
        )
    trainable = Trainable(network, trained=partial(is_trained, frozen_blocks=frozen_blocks))

    def loss(
        params: Arrays, stats: Arrays, batch: DetectorBatch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Arrays, Arrays]]:
        made = trainable.network(params, stats)
        value, parts = detector_loss(made, batch, key, sampling=how.sampling, augmentation=how.augmentation)
        return value, (trainable.stats_of(made), parts)

    run = jax.jit(in_float32(lambda params, stats, images: trainable.evaluated(params, stats)(images)))
    truth = true_boxes(validation)

    def measure(params: Arrays, stats: Arrays) -> DetectionScore:
        found = found_boxes(in_batches(partial(run, params, stats), validation.images, batch=_EVALUATION_BATCH))
        return detection_score(truth, found, classes=how.network.classes)

    trained = train(
        trainable.params,
        trainable.stats,
        loss=loss,
        batch=DetectorSampler(training, batch=how.batch, seed=how.loop.seed).batch,
        config=how.loop,
        checkpoints=checkpoints,
        resume=resume,
        score=lambda params, stats: measure(params, stats).ap_50,
        watchers=watchers,
    )
    return trainable.evaluated(trained.params, trained.stats), trained, measure(trained.params, trained.stats)
