import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from twinsight_core.errors import StartupError
from twinsight_core.evaluation.detection import ANY_CLASS, FoundBoxes, TrueBoxes, detection_score


def true(boxes: list[list[float]], labels: list[int], height_px: int = 100, width_px: int = 100) -> TrueBoxes:
    return TrueBoxes(np.array(boxes).reshape(-1, 4), np.array(labels, np.int64), height_px, width_px)


def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> FoundBoxes:
    return FoundBoxes(np.array(boxes).reshape(-1, 4), np.array(labels, np.int64), np.array(scores))


LEFT, RIGHT = [0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]


def test_boxes_found_exactly_score_one() -> None:
    pytest.importorskip("pycocotools", reason="the extra `train` is not installed")
    score = detection_score([true([LEFT, RIGHT], [0, 2])], [found([LEFT, RIGHT], [0, 2], [0.9, 0.8])], classes=3)
    assert (score.ap, score.ap_50, score.ap_75) == pytest.approx((1.0, 1.0, 1.0))
    # No picture holds class 1.
    assert score.class_ap == pytest.approx((1.0, None, 1.0))
    assert (score.pictures, score.boxes) == (1, 2)


def test_average_precision_worked_by_hand() -> None:
    pytest.importorskip("pycocotools", reason="the extra `train` is not installed")
    # The surest detection finds nothing, the second has the box of another class, the third the right one, the box of
    # the second picture is missed: precision 1/2 up to recall 1/2 (51 of the 101 recalls).
    score = detection_score(
        [true([LEFT], [0]), true([LEFT], [0])],
        [found([RIGHT, LEFT, LEFT], [0, 1, 0], [0.9, 0.8, 0.7]), found([], [], [])],
        classes=2,
    )
    assert score.ap == pytest.approx(51 / 101 / 2)
    assert score.class_ap == pytest.approx((51 / 101 / 2, None))


@pytest.mark.parametrize(("columns", "ap", "ap_75"), [(0.41, 0.7, 1.0), (0.385, 0.6, 1.0), (0.365, 0.5, 0.0)])
def test_an_overlap_counts_up_to_its_threshold(columns: float, ap: float, ap_75: float) -> None:
    pytest.importorskip("pycocotools", reason="the extra `train` is not installed")
    # Of 0.5: overlaps of 0.82, 0.77 and 0.73, above seven, six and five of the thresholds of 0.50, 0.55 and so on.
    score = detection_score([true([LEFT], [0])], [found([[0.0, 0.0, columns, 0.5]], [0], [0.9])], classes=1)
    assert score.ap == pytest.approx(ap)
    assert (score.ap_50, score.ap_75) == pytest.approx((1.0, ap_75))


@pytest.mark.parametrize("scores", [[0.9], [0.9, np.nan], [np.inf, 0.5]])
def test_scores_that_rank_nothing_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^`scores` \(\d,\) must be \[count\] as `labels` \(2,\), finite\.$"):
        found([LEFT, RIGHT], [0, 1], scores)


@pytest.mark.parametrize(("height", "width"), [(0, 1), (1, 0)])
def test_a_picture_without_pixels_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        true([LEFT], [0], height, width)


def test_nothing_found_scores_zero() -> None:
    pytest.importorskip("pycocotools", reason="the extra `train` is not installed")
    score = detection_score([true([LEFT], [0])], [found([], [], [])], classes=1)
    assert (score.ap, score.class_ap, score.class_ap_50) == (0.0, (0.0,), (0.0,))


TRUTH_FILE = {
    "images": [{"id": 7, "height": 200, "width": 400}, {"id": 8, "height": 120, "width": 90}],
    "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "plate"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 20, 100, 80], "area": 8000, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [200, 50, 60, 60], "area": 3600, "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 2, "bbox": [300, 100, 40, 40], "area": 1600, "iscrowd": 0},
        {"id": 4, "image_id": 8, "category_id": 1, "bbox": [5, 5, 30, 30], "area": 900, "iscrowd": 0},
        {"id": 5, "image_id": 8, "category_id": 2, "bbox": [40, 60, 20, 50], "area": 1000, "iscrowd": 0},
    ],
}
FOUND_FILE = [
    {"image_id": 7, "category_id": 1, "bbox": [12, 22, 98, 80], "score": 0.95},
    {"image_id": 7, "category_id": 1, "bbox": [15, 30, 90, 75], "score": 0.90},
    {"image_id": 7, "category_id": 1, "bbox": [210, 55, 60, 60], "score": 0.60},
    {"image_id": 7, "category_id": 2, "bbox": [290, 95, 55, 50], "score": 0.70},
    {"image_id": 8, "category_id": 1, "bbox": [6, 4, 30, 32], "score": 0.80},
    {"image_id": 8, "category_id": 1, "bbox": [50, 80, 20, 20], "score": 0.65},
    {"image_id": 8, "category_id": 2, "bbox": [41, 62, 20, 45], "score": 0.50},
    {"image_id": 8, "category_id": 2, "bbox": [0, 0, 20, 45], "score": 0.55},
]


def test_no_detection_counts_in_a_region_of_any_class() -> None:
    pytest.importorskip("pycocotools", reason="the extra `train` is not installed")
    # In the region two things of other classes, surer than those that are right.
    answer = found([LEFT, LEFT, RIGHT, RIGHT], [0, 1, 0, 1], [0.5, 0.5, 0.9, 0.9])
    there = true([LEFT, LEFT], [0, 1])
    region = np.array([RIGHT])
    for label, scores in ((ANY_CLASS, (1.0, 1.0)), (1, (0.5, 1.0))):
        truth = replace(there, ignored_boxes=region, ignored_labels=np.array([label]))
        assert detection_score([truth], [answer], classes=2).class_ap_50 == pytest.approx(scores)
    with pytest.raises(ValueError, match=r"^`labels` must lie in 0\.\.1; they reach from -2 to -2\.$"):
        detection_score([replace(truth, ignored_labels=np.array([-2]))], [answer], classes=2)


def test_scores_equal_those_of_pycocotools_on_files_of_its_format(
    evaluated_by_pycocotools: Callable[[object, Sequence[object]], Any],
) -> None:
    evaluation = evaluated_by_pycocotools(TRUTH_FILE, FOUND_FILE)
    sizes = {7: (200, 400), 8: (120, 90)}

    def fractions(boxes: np.ndarray, picture: int) -> np.ndarray:
        height, width = sizes[picture]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        scaled: np.ndarray = corners / [width, height, width, height]
        return scaled

    def rows(entries: list[dict[str, float | list[float]]], picture: int, name: str) -> np.ndarray:
        return np.array([entry[name] for entry in entries if entry["image_id"] == picture])

    annotations = json.loads(json.dumps(TRUTH_FILE))["annotations"]
    detections = json.loads(json.dumps(FOUND_FILE))
    score = detection_score(
        [
            TrueBoxes(
                fractions(rows(annotations, picture, "bbox"), picture),
                rows(annotations, picture, "category_id") - 1,
                *sizes[picture],
            )
            for picture in sizes
        ],
        [
            FoundBoxes(
                fractions(rows(detections, picture, "bbox"), picture),
                rows(detections, picture, "category_id") - 1,
                rows(detections, picture, "score"),
            )
            for picture in sizes
        ],
        classes=2,
    )
    assert (score.ap, score.ap_50, score.ap_75) == pytest.approx(tuple(evaluation.stats[:3]), abs=1e-12)
    by_class = evaluation.eval["precision"][:, :, :, 0, 2].mean(axis=(0, 1))
    assert score.class_ap == pytest.approx(tuple(by_class), abs=1e-12)
    assert 0.1 < score.ap < score.ap_50 < 1.0


def test_rows_of_a_network_become_detections() -> None:
    rows = np.zeros((4, 6), np.float32)
    rows[0] = [0.0, 0.0, 0.5, 0.5, 0.9, 2.0]
    rows[1] = [0.25, 0.0, 0.5, 0.5, 0.8, 0.0]
    detections = FoundBoxes.from_rows(rows)
    np.testing.assert_array_equal(detections.labels, [2, 0])
    np.testing.assert_allclose(detections.scores, [0.9, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(detections.boxes[1], [0.25, 0.0, 0.5, 0.5])


def test_without_pycocotools_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(StartupError, match=r"needs pycocotools, .* pip install '\.\[train\]'") as caught:
        detection_score([true([LEFT], [0])], [found([], [], [])], classes=1)
    assert caught.value.reason == "EXTRA_MISSING"


@pytest.mark.parametrize(
    ("truth", "detections", "message"),
    [
        ([true([LEFT], [0])], [], "`truth` (1) and `found` (0) must have the same number of pictures."),
        ([true([], [])], [found([], [], [])], "`truth` must have a box: there is nothing to find."),
        ([true([LEFT], [1])], [found([], [], [])], "`labels` must lie in 0..0; they reach from 1 to 1."),
    ],
)
def test_what_can_not_be_scored_is_refused(truth: list[TrueBoxes], detections: list[FoundBoxes], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        detection_score(truth, detections, classes=1)


def test_boxes_that_are_none_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^`boxes` must be finite, with x_min at most x_max and y_min at most y_max\.$"
    ):
        true([[0.5, 0.0, 0.4, 1.0]], [0])
    with pytest.raises(ValueError, match=r"^`boxes` \(1, 4\) must be \[count, 4\] and `labels` \(0,\) \[count\]\.$"):
        true([LEFT], [])
