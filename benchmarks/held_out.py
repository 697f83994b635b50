"""The pictures that shipped models are measured on, and those of their training, as the recipes part them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twinsight_core.evaluation.retrieval import retrieval_scores
from twinsight_core.images import Preprocessing
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.packages import ModelCard, find_package
from twinsight_core.training.base import BASE
from twinsight_core.training.boxes import BoxedImages, read_voc
from twinsight_core.training.classifier import ClassifierTraining
from twinsight_core.training.classifier import split as split_pictures
from twinsight_core.training.data import LabelledImages, read_class_folders
from twinsight_core.training.findings import classification_findings, detection_findings, embedding_findings
from twinsight_core.training.recipe import load_sets
from twinsight_core.training.siamese import SiameseTraining
from twinsight_core.training.siamese import split as split_classes

HELD_OUT = 0.1
"""Share of `glyph`'s alphabets."""
WHICH = "held out from training"


@dataclass(frozen=True)
class Amount:
    """How many pictures are taken, evenly from all there are.

    Attributes:
        training: of those that a model was trained on; 0: none are read.
        held_out: of those that it never saw, from each set; None: all. Of `cells` it is all anyway.
    """

    training: int = 0
    held_out: int | None = None


@dataclass(frozen=True)
class HeldOut:
    """Pictures of a shipped model.

    Attributes:
        training: [count, height, width, 3] uint8, RGB, 0..255; the model was trained on pictures of these classes.
        images: [count, height, width, 3] uint8, RGB, 0..255; it never saw these.
        scores: a model's answers for `images`, [count, *answer] float32 -> its scores by name.
    """

    training: np.ndarray
    images: np.ndarray
    scores: Callable[[np.ndarray], dict[str, float]]


ALL = Amount()
LEAST_PROBABILITY = 1e-12
"""Added to what a model answers, so that its logarithm is finite."""


def base(data: Path, cache: Path, amount: Amount = ALL) -> HeldOut:
    """Returns whole classes of three sets of photographs."""
    training, images, labels = [], [], []
    names = [one.name for one in BASE.sets]
    for one in load_sets(BASE, data, cache, None):
        rows = evenly(one.rows(one.split.test), amount.held_out)
        images.append(one.decoded(rows, BASE.served))
        labels.append(one.pictures.labels[rows])
        training.append(one.decoded(evenly(one.rows(one.split.train), amount.training // len(names)), BASE.served))
    bounds = np.cumsum([len(part) for part in labels])[:-1]

    def scores(embeddings: np.ndarray) -> dict[str, float]:
        found = {}
        for name, part, of_set in zip(names, np.split(embeddings, bounds), labels, strict=True):
            score = retrieval_scores(part, of_set)
            found[f"{name}_recall_at_1"] = score.recall_at_k[1]
            found[f"{name}_map_at_r"] = score.map_at_r
        return found

    return HeldOut(np.concatenate(training), np.concatenate(images), scores)


def glyph(data: Path, cache: Path, amount: Amount = ALL) -> HeldOut:
    """Returns whole alphabets of hand-drawn characters."""
    card = find_package("glyph").card
    pictures = _pictures(data / "omniglot_background.zip", card.preprocessing, cache)
    if not isinstance(card.config, SiameseConfig):
        raise TypeError("`glyph` is a Siamese network.")
    how = SiameseTraining(
        network=card.config, preprocessing=card.preprocessing, groups=2, validation=HELD_OUT, test=HELD_OUT
    )
    parts = split_classes(pictures, how)
    rows = evenly(parts.test, amount.held_out)
    images, labels = pictures.images[rows], pictures.labels[rows]
    groups, files = pictures.groups()[labels], [pictures.files[row] for row in rows]

    def scores(embeddings: np.ndarray) -> dict[str, float]:
        return embedding_findings(embeddings, labels, groups, images, files, which=WHICH).scores

    return HeldOut(pictures.images[evenly(parts.train, amount.training)], images, scores)


def cells(data: Path, cache: Path, amount: Amount = ALL) -> HeldOut:
    """Returns the official validation list of a microscope's pictures."""
    del cache
    card = find_package("cells").card
    if not isinstance(card.config, FasterRCNNConfig):
        raise TypeError("`cells` is a Faster R-CNN.")
    read, least_score = _boxed(data, card, "val"), card.config.least_score

    def scores(answers: np.ndarray) -> dict[str, float]:
        return detection_findings(answers, read, least_score=least_score, which=WHICH).scores

    training = _boxed(data, card, "train").images if amount.training else read.images[:0]
    return HeldOut(training[evenly(np.arange(len(training)), amount.training)], read.images, scores)


def garments(data: Path, cache: Path, amount: Amount = ALL) -> HeldOut:
    """Returns a fifth of each class of clothes."""
    card = find_package("garments").card
    pictures = _pictures(data / "clothing_train.zip", card.preprocessing, cache)
    if not isinstance(card.config, ClassifierConfig):
        raise TypeError("`garments` is a classifier.")
    parts = split_pictures(pictures, ClassifierTraining(network=card.config, preprocessing=card.preprocessing))
    rows = evenly(parts.test, amount.held_out)
    images, labels = pictures.images[rows], pictures.labels[rows]
    files = [pictures.files[row] for row in rows]

    def scores(probabilities: np.ndarray) -> dict[str, float]:
        logits = np.log(probabilities + LEAST_PROBABILITY)
        return classification_findings(logits, labels, images, pictures.classes, files, which=WHICH).scores

    return HeldOut(pictures.images[evenly(parts.train, amount.training)], images, scores)


def evenly(rows: np.ndarray, most: int | None) -> np.ndarray:
    """Returns up to so many of the rows, evenly spread: all classes alike, and the same ones every time."""
    if most is None or len(rows) <= most:
        return rows
    spread: np.ndarray = rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)] if most else rows[:0]
    return spread


def _boxed(data: Path, card: ModelCard, image_set: str) -> BoxedImages:
    return read_voc(
        data / "bccd_trainval.zip",
        preprocessing=card.preprocessing,
        image_set=image_set,
        classes=card.labels,
        skip_bad=True,
    )


def _pictures(path: Path, size: Preprocessing, cache: Path) -> LabelledImages:
    return read_class_folders(path, preprocessing=size, cache_dir=cache)
