"""Splits a detector's pictures into parts: to train on, to choose the weights by, and for the scores."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from twinsight_core.errors import TrainingError
from twinsight_core.images import Preprocessing
from twinsight_core.packages import check_labels
from twinsight_core.training.box_formats import voc_lists, voc_pictures
from twinsight_core.training.boxes import BoxedImages, read_coco, read_voc
from twinsight_core.training.copies import first_copies, in_order
from twinsight_core.training.files import Files
from twinsight_core.training.pixels import pixels_of

_LOG = logging.getLogger(__name__)

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
TRAINING_SET, TEST_SET = "train", "val"
LEAST_PX = 1.0
"""A thing with a shorter side at the network's size is no longer visible."""

# Further files are only counted.
_NAMED_FILES = 10


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
    training_set: str | None = None,
    test_set: str | None = None,
    skip_bad: bool,
) -> DetectorParts:
    """Reads a set and splits it: by VOC's lists if it has them, otherwise by the hashes of the pictures' paths.

    Exact copies of a picture are in the same part; of those in both lists, the one in the test list is kept.

    Each part is a copy: for a moment the pictures are in memory twice.

    Args:
        data: folder or zip in the layout of Pascal VOC, or with the pictures of `annotations`.
        annotations: COCO's JSON file; None: VOC.
        preprocessing: how pictures become pixels.
        training_set: VOC's list of pictures to train on; None: `train`.
        test_set: VOC's list of pictures for the scores; None: `val`. If neither is given and these two do not both
            exist, the set is split by hashes.
        skip_bad: leave out what is flawed.

    Raises:
        TrainingError: the set is flawed or too small, a given list does not exist, the lists share pictures, or a part
            holds nothing that a network could see.
        PackageError: the names of the classes are too long for a card.
    """
    lists = _lists(data, annotations, training_set, test_set)
    if lists is not None:
        everything = read_voc(data, preprocessing=preprocessing, image_set=lists[0], skip_bad=skip_bad)
        test = read_voc(
            data, preprocessing=preprocessing, image_set=lists[1], classes=everything.classes, skip_bad=skip_bad
        )
        everything = _without_copies(everything, test)
        firsts = first_copies(everything.images)
        seen = _have_visible(everything, preprocessing)
        train, validation = _split(firsts, seen, in_order(everything.files, firsts), VALIDATION_SHARE)
        parts = DetectorParts(train=_rows(everything, train), validation=_rows(everything, validation), test=test)
    else:
        everything = (
            read_voc(data, preprocessing=preprocessing, skip_bad=skip_bad)
            if annotations is None
            else read_coco(annotations, data, preprocessing=preprocessing, skip_bad=skip_bad)
        )
        firsts = first_copies(everything.images)
        seen = _have_visible(everything, preprocessing)
        rest, held_out = _split(firsts, seen, in_order(everything.files, firsts), TEST_SHARE)
        train, validation = _split(firsts, seen, rest, VALIDATION_SHARE)
        parts = DetectorParts(*(_rows(everything, rows) for rows in (train, validation, held_out)))
    check_labels(parts.test.classes)
    _check_boxes(parts.train, preprocessing, "to train on")
    _check_boxes(parts.validation, preprocessing, "to choose the weights by")
    _check_boxes(parts.test, preprocessing, "for the scores")
    _tell_missing(parts.train, "trained on", "it can't be learnt")
    _tell_missing(parts.test, "scored", "it has no score")
    return parts


def anchor_sizes(data: BoxedImages, size: Preprocessing, *, count: int) -> tuple[float, ...]:
    """Returns the sides of square anchors that suit a set's things, rising: quantiles of the sides of its boxes.

    Every class has the same weight: otherwise rare things would drown among frequent ones.

    Args:
        data: the pictures to train on.
        size: of the network's input.
        count: how many.

    Raises:
        TrainingError: there is no box, or so many are tiny that an anchor would be.
    """
    if not data.valid.any():
        raise TrainingError("The pictures to train on have no boxes.", reason="BOXES_NONE")
    sides = np.sqrt(_extents(data, size).prod(axis=-1))
    labels = data.labels[data.valid]
    order = np.argsort(sides)
    weights = 1.0 / np.bincount(labels)[labels[order]]
    reached = np.cumsum(weights) / weights.sum()
    places = np.searchsorted(reached, (np.arange(count) + 0.5) / count)
    found = tuple(round(float(sides[order[place]]), 1) for place in places)
    if found[0] < LEAST_PX:
        raise TrainingError(
            f"One in {2 * count} things to train on is at most {found[0]:g} px large at {size.width_px}x"
            f"{size.height_px}; anchors must have at least {LEAST_PX:g} px: use a larger size.",
            reason="BOXES_TOO_SMALL",
        )
    return found


def _lists(
    data: Path, annotations: Path | None, training_set: str | None, test_set: str | None
) -> tuple[str, str] | None:
    """Returns the lists to train on and for the scores, or None to split by hashes."""
    asked = training_set is not None or test_set is not None
    if annotations is not None:
        if asked:
            raise TrainingError(
                f"Lists of pictures (={training_set or test_set}) are Pascal VOC's; {annotations} is COCO's.",
                reason="LISTS_NOT_VOC",
            )
        return None
    files = Files(data)
    names = (training_set or TRAINING_SET, test_set or TEST_SET)
    if not asked and not voc_lists(files).issuperset(names):
        return None
    train, test = ({one.file for one in voc_pictures(files, name).pictures} for name in names)
    shared = sorted(train & test)
    if shared:
        more = f" and {len(shared) - _NAMED_FILES} more" if len(shared) > _NAMED_FILES else ""
        raise TrainingError(
            f"{data}: the lists `{names[0]}` to train on and `{names[1]}` for the scores must not share pictures; both "
            f"have {', '.join(shared[:_NAMED_FILES])}{more}.",
            reason="PARTS_OVERLAP",
        )
    return names


def _extents(data: BoxedImages, size: Preprocessing) -> np.ndarray:
    """Returns width and height of every box at the network's size, [boxes, 2] float64, in pixels."""
    boxes = data.boxes[data.valid].astype(np.float64)
    extents: np.ndarray = (boxes[:, 2:] - boxes[:, :2]) * [size.width_px, size.height_px]
    return extents


def _tell_missing(data: BoxedImages, purpose: str, so: str) -> None:
    """Warns of each class that no box of a part is of; the parts are made by pictures, and a rare class has few."""
    counts = np.bincount(data.labels[data.valid], minlength=len(data.classes))
    for name, count in zip(data.classes, counts, strict=True):
        if not count:
            _LOG.warning("no box of `%s` is in the pictures that are %s: %s", name, purpose, so)


def _check_boxes(data: BoxedImages, size: Preprocessing, purpose: str) -> None:
    if not _have_visible(data, size).any():
        raise TrainingError(
            f"The {len(data)} pictures {purpose} must have a box of at least {LEAST_PX:g}x{LEAST_PX:g} px at the "
            f"network's {size.width_px}x{size.height_px}; they have {int(data.valid.sum())} boxes, none that large.",
            reason="BOXES_NONE",
        )


def _without_copies(data: BoxedImages, test: BoxedImages) -> BoxedImages:
    """Returns the pictures to train on without copies of the test list's; logs the copies."""
    firsts = first_copies([*test.images, *data.images])[len(test) :]
    copies = np.flatnonzero(firsts < len(test)).tolist()
    for row in copies:
        _LOG.warning("not training on %s: a copy of %s, for the scores", data.files[row], test.files[firsts[row]])
    if len(copies) == len(data):
        raise TrainingError("All pictures to train on are copies of those for the scores.", reason="PARTS_OVERLAP")
    return _rows(data, sorted(set(range(len(data))) - set(copies))) if copies else data


def _have_visible(data: BoxedImages, size: Preprocessing) -> np.ndarray:
    """Returns which pictures have a box that a network could see, [count] bool."""
    rows = np.nonzero(data.valid)[0]
    have = np.zeros(len(data), np.bool_)
    have[rows[(_extents(data, size) >= LEAST_PX).all(axis=1)]] = True
    return have


def _split(firsts: np.ndarray, seen: np.ndarray, rows: list[int], share: float) -> tuple[list[int], list[int]]:
    """Splits off a share of rows, the first ones of those that are seen and of the others.

    Where few pictures have a box, a share of all might have none. Copies, which are adjacent, stay together.

    Args:
        firsts: [count] int64, `first_copies` of the pictures.
        seen: [count] bool, `_have_visible` of the pictures.
        rows: which to split, in order.
        share: above 0, below 1.

    Returns:
        The others, and those split off, each in order.

    Raises:
        TrainingError: one of both would be empty.
    """
    copies = [list(group) for _, group in groupby(rows, key=lambda row: int(firsts[row]))]
    taken: set[int] = set()
    for least, kind in ((1, True), (0, False)):
        of_kind = [group for group in copies if bool(seen[group].any()) is kind]
        wanted = max(least, round(share * sum(len(group) for group in of_kind)))
        count = 0
        for group in of_kind[:-1]:  # the last one stays
            if count >= wanted:
                break
            taken.update(group)
            count += len(group)
    if not taken and len(copies) > 1:
        taken.update(copies[0])
    if not taken:
        copied = " (copies counted once: 1)" if len(rows) > 1 else ""
        raise TrainingError(
            f"There are {len(firsts)} pictures{copied}; some must be held out and some trained on.",
            reason="PICTURES_TOO_FEW",
        )
    return [row for row in rows if row not in taken], [row for row in rows if row in taken]


def _rows(data: BoxedImages, rows: list[int]) -> BoxedImages:
    rows = sorted(rows)
    places = np.array(rows)
    return replace(
        data,
        images=pixels_of(data.images, places),
        boxes=data.boxes[places],
        labels=data.labels[places],
        valid=data.valid[places],
        ignored=data.ignored[places],
        sizes=data.sizes[places],
        files=tuple(data.files[row] for row in rows),
    )
