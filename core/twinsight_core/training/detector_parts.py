"""The pictures with boxes of a detector's training in their parts: to train on, to choose by, and for the scores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twinsight_core.errors import TrainingError
from twinsight_core.images import Preprocessing
from twinsight_core.training.box_formats import Files
from twinsight_core.training.boxes import BoxedImages, read_coco, read_voc

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1


@dataclass(frozen=True)
class DetectorParts:
    """Pictures in each part; none is in two, all have the same classes.

    Attributes:
        train: to learn from.
        validation: to choose the weights by.
        test: for the scores.
    """

    train: BoxedImages
    validation: BoxedImages
    test: BoxedImages


def detector_parts(
    data: Path,
    annotations: Path | None,
    *,
    preprocessing: Preprocessing,
    training_set: str,
    test_set: str,
    skip_bad: bool,
) -> DetectorParts:
    """Reads a set and parts it.

    Args:
        data: folder or zip in the layout of Pascal VOC, or with the pictures of `annotations`.
        annotations: COCO's JSON file; None: VOC.
        preprocessing: how pictures become pixels.
        training_set: VOC's list of pictures to train on.
        test_set: VOC's list of pictures for the scores.
        skip_bad: leave out what something is wrong with.

    Raises:
        TrainingError: something is wrong with the set, or it is too small.
    """
    if annotations is not None:
        everything = read_coco(annotations, data, preprocessing=preprocessing, skip_bad=skip_bad)
    elif _has_lists(data, training_set, test_set):
        everything = read_voc(data, preprocessing=preprocessing, image_set=training_set, skip_bad=skip_bad)
        test = read_voc(
            data, preprocessing=preprocessing, image_set=test_set, classes=everything.classes, skip_bad=skip_bad
        )
        train, validation = _parted(everything, VALIDATION_SHARE)
        return DetectorParts(train=train, validation=validation, test=test)
    else:
        everything = read_voc(data, preprocessing=preprocessing, skip_bad=skip_bad)
    rest, test = _parted(everything, TEST_SHARE)
    train, validation = _parted(rest, VALIDATION_SHARE)
    return DetectorParts(train=train, validation=validation, test=test)


def anchor_sizes(data: BoxedImages, size: Preprocessing, *, count: int) -> tuple[float, ...]:
    """Returns the sides of square anchors that suit a set's things, rising: quantiles of the sides of its boxes.

    Every class counts alike: the sizes of rare things would drown among those of frequent ones.

    Args:
        data: the pictures to train on.
        size: of the network's input.
        count: how many.
    """
    extent = (data.boxes[..., 2:] - data.boxes[..., :2]) * np.array([size.width_px, size.height_px])
    sides = np.sqrt(extent.prod(axis=-1))[data.valid]
    labels = data.labels[data.valid]
    order = np.argsort(sides)
    weights = 1.0 / np.bincount(labels)[labels[order]]
    reached = np.cumsum(weights) / weights.sum()
    places = np.searchsorted(reached, (np.arange(count) + 0.5) / count)
    return tuple(round(float(sides[order[place]]), 1) for place in places)


def _has_lists(data: Path, *names: str) -> bool:
    listed = {Path(one).stem for one in Files(data).names if Path(one).parts[-3:-1] == ("ImageSets", "Main")}
    return listed.issuperset(names)


def _parted(data: BoxedImages, share: float) -> tuple[BoxedImages, BoxedImages]:
    """Returns a set without and with a share of its pictures, chosen by their paths alone."""
    order = sorted(range(len(data)), key=lambda row: hashlib.sha256(data.files[row].encode()).digest())
    count = max(1, round(share * len(data)))
    if count >= len(data):
        raise TrainingError(
            f"There are {len(data)} pictures; some have to be held out and some trained on.", reason="PICTURES_TOO_FEW"
        )
    return _rows(data, sorted(order[count:])), _rows(data, sorted(order[:count]))


def _rows(data: BoxedImages, rows: list[int]) -> BoxedImages:
    places = np.array(rows)
    return replace(
        data,
        images=data.images[places],
        boxes=data.boxes[places],
        labels=data.labels[places],
        valid=data.valid[places],
        sizes=data.sizes[places],
        files=tuple(data.files[row] for row in rows),
    )
