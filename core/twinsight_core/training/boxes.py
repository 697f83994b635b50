"""Pictures with boxes, checked and decoded: Pascal VOC folders and COCO files, from a folder or a zip.

1. Every annotation is read (`box_formats`) and checked: its picture is there, its labels are known, its boxes lie in
   the picture.
2. Every picture is decoded by `twinsight_core.images.decode`, so that training sees exactly what serving sees.
3. All that is wrong is told at once, or left out where the caller says so; nothing is trained before.

Corners are taken as edges, as today's tools write them. In the first VOC sets a corner is the number of a pixel,
counted from 1: there the boxes come out up to a pixel smaller than they were drawn.

Crowds (COCO's `iscrowd`) and difficult things (VOC's `difficult`) are regions to be ignored: they are not to be found,
what is found in them is not wrong, and training does not take what lies in them for background.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twinsight_core.errors import InvalidImage, TrainingError
from twinsight_core.host.cores import core_count
from twinsight_core.images import Preprocessing, decode, upright_size
from twinsight_core.models.configs.rcnn import MAX_CLASSES
from twinsight_core.training.box_formats import MarkedBox, MarkedPicture, coco_pictures, voc_pictures
from twinsight_core.training.files import Files, check_names, in_chunks

_LOG = logging.getLogger(__name__)

SLACK_PX = 1.0
"""Tools round: a corner this far outside the picture is put back on its edge."""


@dataclass(frozen=True)
class BoxedImages:
    """Pictures with the things in them.

    Attributes:
        images: [count, height, width, 3] uint8, RGB, 0..255.
        boxes: [count, boxes, 4] float32, x_min, y_min, x_max, y_max in fractions of the picture, 0..1; zeros where
            there are no more.
        labels: [count, boxes] int32, index into `classes`; 0 where there are no more.
        valid: [count, boxes] bool, which of them are things to be found.
        ignored: [count, boxes] bool, which of the others are regions to be ignored.
        sizes: [count, 2] int32, height and width of the picture as it was, in pixels.
        classes: names of the classes.
        files: [count] path of each picture inside its source.
        skipped: what was left out because something is wrong with it, a sentence each.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    valid: np.ndarray
    ignored: np.ndarray
    sizes: np.ndarray
    classes: tuple[str, ...]
    files: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)


def read_voc(
    path: Path,
    *,
    preprocessing: Preprocessing,
    image_set: str | None = None,
    classes: Sequence[str] | None = None,
    max_boxes: int | None = None,
    skip_bad: bool = False,
) -> BoxedImages:
    """Reads a set in the layout of Pascal VOC: `Annotations/*.xml`, `JPEGImages/` and lists in `ImageSets/Main/`.

    Source: Everingham et al., "The PASCAL Visual Object Classes Challenge 2012 Development Kit", section 7.

    Args:
        path: a folder or a zip; the layout may lie in a folder of it.
        preprocessing: how pictures become pixels; `fit` must be "stretch", which leaves fractions as they are.
        image_set: name of the list to read ("train"); None reads every annotation.
        classes: names of the classes by number; None takes those that occur, sorted.
        max_boxes: boxes to pad to; None takes the most that a picture holds.
        skip_bad: leave out pictures and boxes that something is wrong with.

    Raises:
        TrainingError: there is no such set, or something is wrong with it and is not to be left out; all of it is told.
        ValueError: `preprocessing.fit` is another.
    """
    files = Files(path)
    marked, flaws = voc_pictures(files, image_set)
    known = classes if classes is not None else sorted({box.label for one in marked for box in one.boxes})
    return _load(files, marked, flaws, _Wanted(preprocessing, tuple(known), max_boxes, skip_bad))


def read_coco(
    annotations: Path,
    pictures: Path,
    *,
    preprocessing: Preprocessing,
    classes: Sequence[str] | None = None,
    max_boxes: int | None = None,
    skip_bad: bool = False,
) -> BoxedImages:
    """Reads a set in the format of COCO: one JSON file, and pictures in a folder or a zip.

    Source: "COCO data format", cocodataset.org.

    Args:
        annotations: the JSON file.
        pictures: a folder or a zip; `file_name` is a path in it, or the end of one.
        preprocessing: how pictures become pixels; `fit` must be "stretch", which leaves fractions as they are.
        classes: names of the classes by number; None takes those of the file, by their ids.
        max_boxes: boxes to pad to; None takes the most that a picture holds.
        skip_bad: leave out pictures and boxes that something is wrong with.

    Raises:
        TrainingError: a file is missing or no COCO file, or something is wrong with the set and is not to be left out;
            all of it is told.
        ValueError: `preprocessing.fit` is another.
    """
    files = Files(pictures)
    marked, flaws, categories = coco_pictures(annotations, files)
    known = classes if classes is not None else categories
    return _load(files, marked, flaws, _Wanted(preprocessing, tuple(known), max_boxes, skip_bad))


class _Wanted(NamedTuple):
    """What the caller wants of a set; see `read_voc`."""

    preprocessing: Preprocessing
    classes: tuple[str, ...]
    max_boxes: int | None
    skip_bad: bool


class _Checked(NamedTuple):
    """A picture that can be read.

    Attributes:
        file: its path inside the source.
        size: height and width as it was.
        boxes: [boxes, 4] float32, fractions.
        labels: [boxes] int32.
        ignored: [boxes] bool.
        flaws: what is wrong with boxes that are not among these.
    """

    file: str
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    flaws: tuple[str, ...]


def _load(files: Files, marked: Sequence[MarkedPicture], flaws: Sequence[str], wanted: _Wanted) -> BoxedImages:
    if wanted.preprocessing.fit != "stretch":
        raise ValueError(f"`fit` (={wanted.preprocessing.fit!r}) must be 'stretch' for pictures with boxes.")
    if len(wanted.classes) > MAX_CLASSES:
        raise TrainingError(
            f"{files.path}: there are {len(wanted.classes)} classes; there may be {MAX_CLASSES}.",
            reason="CLASSES_TOO_MANY",
        )
    check_names(files.path, (one.file for one in marked))
    first: dict[str, MarkedPicture] = {}
    again = [one.file for one in marked if first.setdefault(one.file, one) is not one]
    told = [*flaws, *(f"{file}: a second annotation is of this picture." for file in again)]
    images, kept = _decoded(files, tuple(first.values()), wanted, told)
    if told and not wanted.skip_bad:
        raise TrainingError(_all_flaws(files.path, told), reason="BOXES_UNUSABLE")
    if not kept:
        raise TrainingError(f"{files.path} holds no picture that can be used.", reason="DATA_EMPTY")
    if not wanted.classes:
        raise TrainingError(f"{files.path}: nothing is marked in any picture.", reason="BOXES_NONE")
    if told:
        _LOG.warning("%s", _all_flaws(files.path, told))
    return _padded(images, kept, told, wanted)


def _decoded(
    files: Files, marked: Sequence[MarkedPicture], wanted: _Wanted, told: list[str]
) -> tuple[np.ndarray, list[_Checked]]:
    """Returns the pixels of pictures that can be used and what is in them; what can't be used goes to `told`."""
    size = wanted.preprocessing
    # For all of them: what is not filled is never given memory.
    images = np.empty((len(marked), size.height_px, size.width_px, 3), np.uint8)
    kept: list[_Checked] = []
    done = 0
    with ThreadPoolExecutor(core_count()) as pool:
        for chunk in in_chunks(files, [one.file for one in marked]):
            part = marked[done : done + len(chunk)]
            done += len(chunk)
            for one, result in zip(part, pool.map(partial(_checked, wanted=wanted), part, chunk), strict=True):
                if isinstance(result, str):
                    told.append(f"{one.file}: {result}")
                    continue
                images[len(kept)], checked = result
                told.extend(f"{one.file}: {flaw}" for flaw in checked.flaws)
                kept.append(checked)
    return images[: len(kept)], kept


def _checked(one: MarkedPicture, encoded: bytes | str, wanted: _Wanted) -> tuple[np.ndarray, _Checked] | str:
    """Returns a picture's pixels and those of its boxes that are right, or what is wrong with the picture."""
    if isinstance(encoded, str):
        return encoded
    try:
        pixels = decode(encoded, wanted.preprocessing)
    except InvalidImage as error:
        return error.message
    width, height = upright_size(encoded)
    if one.size is not None and one.size != (width, height):
        return f"the picture is {width}x{height}; its annotation is of one of {one.size[0]}x{one.size[1]}."
    labels, boxes, ignored, flaws = [], [], [], []
    for box in one.boxes:
        corners = np.array(box.corners, np.float64) / [width, height, width, height]
        fractions = np.clip(corners, 0.0, 1.0).astype(np.float32)
        flaw = _box_flaw(box, width, height, wanted.classes)
        # A box in the slack, or far below a pixel.
        if not flaw and not (fractions[2:] > fractions[:2]).all():
            flaw = "has no area left in the picture"
        if flaw:
            flaws.append(f"box {', '.join(f'{corner:g}' for corner in box.corners)} ({box.label}) {flaw}.")
        else:
            labels.append(wanted.classes.index(box.label))
            boxes.append(fractions)
            ignored.append(box.ignored)
    if wanted.max_boxes is not None and len(labels) > wanted.max_boxes:
        return f"{len(labels)} boxes; at most {wanted.max_boxes} are taken."
    return pixels, _Checked(
        file=one.file,
        size=(height, width),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int32),
        ignored=np.array(ignored, np.bool_),
        flaws=tuple(flaws),
    )


def _box_flaw(box: MarkedBox, width: int, height: int, classes: tuple[str, ...]) -> str:
    """Returns what is wrong with a box; empty if nothing is."""
    x_min, y_min, x_max, y_max = box.corners
    if box.label not in classes:
        return "has an unknown label"
    if x_max <= x_min or y_max <= y_min:
        return "has no area"
    if min(x_min, y_min) < -SLACK_PX or x_max > width + SLACK_PX or y_max > height + SLACK_PX:
        return f"lies outside the picture of {width}x{height}"
    return ""


def _padded(images: np.ndarray, kept: Sequence[_Checked], told: Sequence[str], wanted: _Wanted) -> BoxedImages:
    count, most = len(kept), wanted.max_boxes or max(1, *(len(one.labels) for one in kept))
    boxes, labels = np.zeros((count, most, 4), np.float32), np.zeros((count, most), np.int32)
    valid, ignored = np.zeros((count, most), np.bool_), np.zeros((count, most), np.bool_)
    for row, one in enumerate(kept):
        there = len(one.labels)
        boxes[row, :there], labels[row, :there] = one.boxes, one.labels
        valid[row, :there], ignored[row, :there] = ~one.ignored, one.ignored
    return BoxedImages(
        images=images,
        boxes=boxes,
        labels=labels,
        valid=valid,
        ignored=ignored,
        sizes=np.array([one.size for one in kept], np.int32),
        classes=wanted.classes,
        files=tuple(one.file for one in kept),
        skipped=tuple(told),
    )


def _all_flaws(path: Path, told: Sequence[str]) -> str:
    return f"{path}: {len(told)} things can't be used:\n" + "\n".join(f"  {one}" for one in told)
