"""Scores of detectors: the average precision of the COCO benchmark."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from twinsight_core.errors import StartupError
from twinsight_core.extras import how_to_install

if TYPE_CHECKING:
    from pycocotools.coco import COCO

# Of the benchmark: detections of one picture and class that count, and the number of the whole range of areas.
MAX_DETECTIONS = 100
_ALL_AREAS = 0
ANY_CLASS = -1
"""Label of a region in which no detection counts, whatever its class."""


@dataclass(frozen=True)
class TrueBoxes:
    """The things to find in one picture.

    Attributes:
        boxes: [count, 4] float, x_min, y_min, x_max, y_max, fractions of the picture's width and height.
        labels: [count] integer, 0..classes - 1.
        height_px: height of the picture.
        width_px: width of the picture.
        ignored_boxes: [regions, 4] float, regions such as crowds: detections in them are neither right nor wrong.
        ignored_labels: [regions] integer, class of the detections that are not counted there, or ANY_CLASS.
    """

    boxes: np.ndarray
    labels: np.ndarray
    height_px: int
    width_px: int
    ignored_boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    ignored_labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    def __post_init__(self) -> None:
        """Checks the shapes and the size.

        Raises:
            ValueError: a value breaks its rule.
        """
        _check_boxes(self.boxes, self.labels)
        _check_boxes(self.ignored_boxes, self.ignored_labels)
        if self.height_px < 1 or self.width_px < 1:
            raise ValueError(f"`height_px` (={self.height_px}) and `width_px` (={self.width_px}) must be at least 1.")


@dataclass(frozen=True)
class FoundBoxes:
    """What a detector found in one picture.

    Attributes:
        boxes: [count, 4] float, x_min, y_min, x_max, y_max, fractions of the picture's width and height.
        labels: [count] integer, 0..classes - 1.
        scores: [count] float, higher is surer.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        """Checks the shapes.

        Raises:
            ValueError: a value breaks its rule.
        """
        _check_boxes(self.boxes, self.labels)
        if self.scores.shape != self.labels.shape or not np.isfinite(self.scores).all():
            raise ValueError(f"`scores` {self.scores.shape} must be [count] as `labels` {self.labels.shape}, finite.")

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> FoundBoxes:
        """Returns the detections of a detection network's answer for one picture.

        Args:
            rows: [max_detections, 6] float32: x_min, y_min, x_max, y_max, score, label; rows all 0 are none.
        """
        kept = rows[rows.any(axis=1)]
        return cls(boxes=kept[:, :4], labels=np.rint(kept[:, 5]).astype(np.int64), scores=kept[:, 4])


@dataclass(frozen=True)
class DetectionScore:
    """A detector's scores.

    Attributes:
        ap: mean over classes and over overlaps 0.50, 0.55, ..., 0.95 of the average precision, 0..1.
        ap_50: the same at an overlap (intersection over union) of 0.50.
        ap_75: the same at an overlap of 0.75.
        class_ap: [classes] `ap` of each class; None for one that no picture holds.
        class_ap_50: [classes] `ap_50` of each class; None for one that no picture holds.
        class_precision_50: [classes] the precisions at an overlap of 0.50, [101] float64: the highest at each recall
            (0, 0.01, ..., 1) or a higher one; None for a class that no picture holds.
        pictures: pictures that were measured.
        boxes: things to find.
    """

    ap: float
    ap_50: float
    ap_75: float
    class_ap: tuple[float | None, ...]
    class_ap_50: tuple[float | None, ...]
    class_precision_50: tuple[np.ndarray | None, ...]
    pictures: int
    boxes: int


def detection_score(truth: Sequence[TrueBoxes], found: Sequence[FoundBoxes], *, classes: int) -> DetectionScore:
    """Returns the average precision as pycocotools computes it: 101 recalls, at most 100 detections a picture.

    Ignored regions are the benchmark's crowds: a detection that matches no thing, and of which a large enough share
    lies in a region of its class, does not count.

    Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, and the benchmark's evaluation code,
    pycocotools.

    Args:
        truth: one a picture.
        found: one a picture, in the same order.
        classes: number of classes.

    Raises:
        ValueError: the lengths differ, there is nothing to find, or a label is no class.
        StartupError: pycocotools is not installed.
    """
    if len(truth) != len(found):
        raise ValueError(f"`truth` ({len(truth)}) and `found` ({len(found)}) must have the same number of pictures.")
    boxes = sum(len(one.labels) for one in truth)
    if not boxes:
        raise ValueError("`truth` must have a box: there is nothing to find.")
    of_truth = (labels for one in truth for labels in (one.labels, one.ignored_labels[one.ignored_labels != ANY_CLASS]))
    for labels in (*of_truth, *(one.labels for one in found)):
        if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
            raise ValueError(
                f"`labels` must lie in 0..{classes - 1}; they reach from {labels.min()} to {labels.max()}."
            )
    precision = _precision(truth, found, classes)
    return DetectionScore(
        ap=_mean(precision),
        ap_50=_mean(precision[:1]),
        ap_75=_mean(precision[5:6]),
        class_ap=tuple(_mean_or_none(precision[:, :, one]) for one in range(classes)),
        class_ap_50=tuple(_mean_or_none(precision[:1, :, one]) for one in range(classes)),
        class_precision_50=tuple(
            precision[0, :, one] if (precision[0, :, one] > -1).any() else None for one in range(classes)
        ),
        pictures=len(truth),
        boxes=boxes,
    )


def _precision(truth: Sequence[TrueBoxes], found: Sequence[FoundBoxes], classes: int) -> np.ndarray:
    """Returns the precisions, [overlaps, recalls, classes] float64; -1 for a class that no picture holds."""
    try:
        from pycocotools.cocoeval import COCOeval  # noqa: PLC0415 - optional
    except ImportError as error:
        raise StartupError(
            f"Measuring a detector needs pycocotools, which is not installed. {how_to_install('train')}",
            reason="EXTRA_MISSING",
        ) from error
    # It prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = _data_set(truth, [_annotations(one, classes) for one in truth], classes)
        evaluation = COCOeval(wanted, _data_set(truth, [_annotations(one, classes) for one in found], classes), "bbox")
        evaluation.params.maxDets = [1, 10, MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision: np.ndarray = evaluation.eval["precision"][:, :, :, _ALL_AREAS, -1]
    return precision


class _Annotations(NamedTuple):
    """Boxes of one picture as the benchmark has them, all [count]; `boxes` [count, 4], fractions."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray


def _annotations(one: TrueBoxes | FoundBoxes, classes: int) -> _Annotations:
    if isinstance(one, FoundBoxes):
        return _Annotations(one.boxes, one.labels, one.scores, np.zeros(len(one.labels), np.int64))
    of_any = one.ignored_labels == ANY_CLASS
    labels = np.concatenate(
        [one.labels, one.ignored_labels[~of_any], np.tile(np.arange(classes), np.count_nonzero(of_any))]
    )
    boxes = [one.boxes, one.ignored_boxes[~of_any], np.repeat(one.ignored_boxes[of_any], classes, axis=0)]
    crowd = (np.arange(len(labels)) >= len(one.labels)).astype(np.int64)
    return _Annotations(np.concatenate(boxes), labels, np.ones(len(labels)), crowd)


def _data_set(truth: Sequence[TrueBoxes], boxes: Sequence[_Annotations], classes: int) -> COCO:
    from pycocotools.coco import COCO  # noqa: PLC0415  # optional

    annotations: list[dict[str, int | float | list[float]]] = []
    for picture, (size, one) in enumerate(zip(truth, boxes, strict=True)):
        scale = np.array([size.width_px, size.height_px, size.width_px, size.height_px], np.float64)
        corners = one.boxes.astype(np.float64).reshape(-1, 4) * scale
        rows = zip(corners.tolist(), one.labels, one.scores, one.crowd, strict=True)
        for (x_min, y_min, x_max, y_max), label, score, crowd in rows:
            width, height = x_max - x_min, y_max - y_min
            annotations.append(
                {
                    # From 1: it takes a match with number 0 for none.
                    "id": len(annotations) + 1,
                    "image_id": picture,
                    "category_id": int(label),
                    "bbox": [x_min, y_min, width, height],
                    "area": width * height,
                    "iscrowd": int(crowd),
                    "score": float(score),
                }
            )
    made = COCO()
    made.dataset = {
        "images": [
            {"id": picture, "height": size.height_px, "width": size.width_px} for picture, size in enumerate(truth)
        ],
        "categories": [{"id": label, "name": str(label)} for label in range(classes)],
        "annotations": annotations,  # pyright: ignore[reportAttributeAccessIssue]  # its stubs ask for masks
    }
    made.createIndex()
    return made


def _mean(precision: np.ndarray) -> float:
    return float(precision[precision > -1].mean())


def _mean_or_none(precision: np.ndarray) -> float | None:
    return _mean(precision) if (precision > -1).any() else None


def _check_boxes(boxes: np.ndarray, labels: np.ndarray) -> None:
    if labels.ndim != 1 or boxes.shape != (len(labels), 4):
        raise ValueError(f"`boxes` {boxes.shape} must be [count, 4] and `labels` {labels.shape} [count].")
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError("`boxes` must be finite, with x_min at most x_max and y_min at most y_max.")
