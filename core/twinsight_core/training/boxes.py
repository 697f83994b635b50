"""Pictures with boxes, checked and decoded: Pascal VOC folders and COCO files, from a folder or a zip.

1. Every annotation is read (`box_formats`) and checked: its picture exists, its labels are known, its boxes lie in the
   picture. Boxes that reach beyond the picture's edge are cut there.
2. Every picture is decoded by `twinsight_core.images.decode`, so that training sees exactly what serving sees.
3. All problems are reported at once, or the affected pictures and boxes left out if the caller says so; nothing is
   trained before.

Corners are taken as edges, as today's tools write them. In the first VOC sets a corner is the number of a pixel,
counted from 1: there the boxes come out up to a pixel smaller than they were drawn.

Crowds (COCO's `iscrowd`) and difficult things (VOC's `difficult`) are ignored regions: a model need not find them, a
detection in them is not wrong, and training does not treat their contents as background. A flawed box that is to be
left out becomes such a region too if it covers some of the picture. If it covers nothing, the thing may be anywhere,
and its picture is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twinsight_core.errors import InvalidImage, TrainingError
from twinsight_core.evaluation.detection import ANY_CLASS
from twinsight_core.host.cores import core_count
from twinsight_core.images import Preprocessing, decode, upright_size
from twinsight_core.models.configs.rcnn import MAX_CLASSES
from twinsight_core.training.box_formats import MarkedBox, MarkedPicture, MarkedSet, coco_pictures, voc_pictures
from twinsight_core.training.data import tell_skipped
from twinsight_core.training.files import Files, check_names, composed, in_chunks
from twinsight_core.training.pixels import empty_pixels

_LOG = logging.getLogger(__name__)

SLACK_PX = 1.0
"""Tools round: a corner this far outside the picture is moved to its edge."""
LEAST_LEFT, LEAST_LEFT_PX = 0.5, 1.0
"""Share of a box, and its columns and rows, that must lie in the picture: a box with less is likely another picture's.
"""


@dataclass(frozen=True)
class BoxedImages:
    """Pictures with the things in them.

    Attributes:
        images: [count, height, width, 3] uint8, RGB, 0..255.
        boxes: [count, boxes, 4] float32, x_min, y_min, x_max, y_max in fractions of the picture, 0..1; padded with
            zeros.
        labels: [count, boxes] int32, index into `classes`, ANY_CLASS for some regions; padded with 0.
        valid: [count, boxes] bool, which of them are things to find.
        ignored: [count, boxes] bool, which of the others are regions to ignore.
        sizes: [count, 2] int32, original height and width of the picture in pixels.
        classes: names of the classes.
        files: [count] path of each picture inside its source.
        skipped: what was left out and why, a sentence each.
        left_out: how many pictures of the set were left out.
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
    left_out: int = 0

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
        skip_bad: leave out what is flawed; see the module.

    Raises:
        TrainingError: there is no such set, or it has flaws that must not be left out; all of them are listed.
        ValueError: `preprocessing.fit` is another.
    """
    files = Files(path)
    marked = voc_pictures(files, image_set)
    named = {box.label for one in marked.pictures for box in one.boxes} - {""}
    known = classes if classes is not None else sorted(named)
    return _load(files, marked, _Wanted(preprocessing, tuple(map(composed, known)), max_boxes, skip_bad))


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
        skip_bad: leave out what is flawed; see the module.

    Raises:
        TrainingError: a file is missing or not a COCO file, or the set has flaws that must not be left out; all of
            them are listed.
        ValueError: `preprocessing.fit` is another.
    """
    files = Files(pictures)
    marked = coco_pictures(annotations, files)
    known = classes if classes is not None else marked.classes
    return _load(files, marked, _Wanted(preprocessing, tuple(map(composed, known)), max_boxes, skip_bad))


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
        size: original height and width.
        boxes: [boxes, 4] float32, fractions.
        labels: [boxes] int32, ANY_CLASS if unknown.
        ignored: [boxes] bool.
        flaws: what is wrong with boxes.
        unknown: labels of boxes that are none of the classes, one for each box.
        cut: boxes that were cut at the picture's edge.
        unplaced: the picture contains a thing whose place is unknown.
    """

    file: str
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    flaws: tuple[str, ...]
    unknown: tuple[str, ...]
    cut: int
    unplaced: bool


def _load(files: Files, marked: MarkedSet, wanted: _Wanted) -> BoxedImages:
    if wanted.preprocessing.fit != "stretch":
        raise ValueError(f"`fit` (={wanted.preprocessing.fit!r}) must be 'stretch' for pictures with boxes.")
    if len(wanted.classes) > MAX_CLASSES:
        raise TrainingError(
            f"{files.path}: there are {len(wanted.classes)} classes; at most {MAX_CLASSES} are supported.",
            reason="CLASSES_TOO_MANY",
        )
    check_names(files.path, (one.file for one in marked.pictures))
    first: dict[str, MarkedPicture] = {}
    told = list(marked.flaws)
    for one in marked.pictures:
        if (before := first.setdefault(one.file, one)) is not one:
            told.append(f"{one.file}: a second annotation refers to this picture.")
            more = tuple(box._replace(ignored=True) for box in one.boxes)
            first[one.file] = before._replace(boxes=(*before.boxes, *more), unplaced=before.unplaced or one.unplaced)
    images, kept = _decoded(files, tuple(first.values()), wanted, told)
    if told and not wanted.skip_bad:
        raise TrainingError(f"{files.path}: {len(told)} things can't be used:", reason="BOXES_UNUSABLE", listed=told)
    if not kept:
        raise TrainingError(f"{files.path}: there are no usable pictures.", reason="DATA_EMPTY")
    if not wanted.classes:
        raise TrainingError(f"{files.path}: no picture has a box.", reason="BOXES_NONE")
    if told:
        _LOG.warning("%s: %d things can't be used", files.path, len(told))
        tell_skipped(told)
    if cut := sum(one.cut for one in kept):
        _LOG.info("%s: %d boxes reach beyond their pictures and are cut at the edge", files.path, cut)
    left_out = marked.missing + len(first) - len(kept)
    return replace(_padded(images, kept, wanted), skipped=tuple(told), left_out=left_out)


def _decoded(
    files: Files, marked: Sequence[MarkedPicture], wanted: _Wanted, told: list[str]
) -> tuple[np.ndarray, list[_Checked]]:
    """Returns the pixels of usable pictures and their boxes; adds what can't be used to `told`."""
    size = wanted.preprocessing
    # For all of them: rows in memory that are never filled take none.
    images = empty_pixels((len(marked), size.height_px, size.width_px, 3))
    kept: list[_Checked] = []
    unknown: dict[str, list[str]] = {}
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
                for label in checked.unknown:
                    unknown.setdefault(label, []).append(one.file)
                if not checked.unplaced:
                    kept.append(checked)
    told.extend(
        f"{named[0]}: unknown label `{label}` (in all: {_count(len(named), 'box', 'boxes')} in "
        f"{_count(len(set(named)), 'picture', 'pictures')})."
        for label, named in sorted(unknown.items())
    )
    return images[: len(kept)], kept


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _checked(one: MarkedPicture, encoded: bytes | str, wanted: _Wanted) -> tuple[np.ndarray, _Checked] | str:
    """Returns a picture's pixels and boxes, or what is wrong with the picture."""
    if isinstance(encoded, str):
        return encoded
    try:
        pixels = decode(encoded, wanted.preprocessing)
    except InvalidImage as error:
        return error.message
    width, height = upright_size(encoded)
    if one.size is not None and one.size != (width, height):
        says = f"the picture is {width}x{height}, but its annotation says {one.size[0]}x{one.size[1]}"
        if one.size == (height, width):
            return f"{says}; if its EXIF data turns it, size and boxes must be those of the upright picture."
        return f"{says}."
    labels, boxes, ignored, flaws, unknown, cut, unplaced = [], [], [], [], list[str](), 0, one.unplaced
    for box in one.boxes:
        corners = np.array(box.corners, np.float64)
        # Swapped corners still say where the thing is.
        x_min, x_max, y_min, y_max = *np.sort(corners[::2]), *np.sort(corners[1::2])
        within = np.clip([x_min, y_min, x_max, y_max], 0.0, [width, height, width, height])
        fractions = (within / [width, height, width, height]).astype(np.float32)
        covers = bool((fractions[2:] > fractions[:2]).all())
        is_known, flaw = box.label in wanted.classes, ""
        if box.label and not is_known:
            unknown.append(box.label)  # a set may have thousands of them: reported together
        else:
            flaw = _box_flaw(box, within, width, height)
            # A box in the slack, or far below a pixel.
            if not flaw and not covers:
                flaw = "has no area left in the picture"
        if flaw:
            flaws.append(f"box {', '.join(f'{corner:g}' for corner in box.corners)} ({box.label}) {flaw}.")
        if not covers:
            unplaced = True
            continue
        labels.append(wanted.classes.index(box.label) if is_known else ANY_CLASS)
        boxes.append(fractions)
        ignored.append(box.ignored or bool(flaw) or not is_known)
        cut += not flaw and (is_known or not box.label) and _sticks_out(box, width, height)
    if wanted.max_boxes is not None and len(labels) > wanted.max_boxes:
        return f"{len(labels)} boxes; at most {wanted.max_boxes} are supported."
    return pixels, _Checked(
        file=one.file,
        size=(height, width),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int32),
        ignored=np.array(ignored, np.bool_),
        flaws=tuple(flaws),
        unknown=tuple(unknown),
        cut=cut,
        unplaced=unplaced,
    )


def _box_flaw(box: MarkedBox, within: np.ndarray, width: int, height: int) -> str:
    """Returns what is wrong with a box's corners; empty if nothing.

    Args:
        box: as its annotation has it.
        within: [4] float64, the part of it in the picture, x_min, y_min, x_max, y_max in pixels.
        width: of the picture.
        height: of the picture.
    """
    x_min, y_min, x_max, y_max = box.corners
    if x_max <= x_min or y_max <= y_min:
        return "has no area"
    if _sticks_out(box, width, height):
        left = within[2:] - within[:2]
        if not left.all():
            return f"lies outside the picture of {width}x{height}"
        if left.min() < LEAST_LEFT_PX or left.prod() < LEAST_LEFT * (x_max - x_min) * (y_max - y_min):
            return f"lies mostly outside the picture of {width}x{height}"
    return ""


def _sticks_out(box: MarkedBox, width: int, height: int) -> bool:
    x_min, y_min, x_max, y_max = box.corners
    return min(x_min, y_min) < -SLACK_PX or x_max > width + SLACK_PX or y_max > height + SLACK_PX


def _padded(images: np.ndarray, kept: Sequence[_Checked], wanted: _Wanted) -> BoxedImages:
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
    )
