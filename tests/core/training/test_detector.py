import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from twinsight_core.errors import TrainingError
from twinsight_core.evaluation.detection import FoundBoxes, detection_score
from twinsight_core.images import Preprocessing
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.rcnn import FasterRCNN, Sampling
from twinsight_core.training.box_augment import BoxAugmentation
from twinsight_core.training.boxes import BoxedImages, read_coco
from twinsight_core.training.detector import (
    DetectorBatch,
    DetectorSampler,
    DetectorTraining,
    detector_loss,
    found_boxes,
    train_detector,
    true_boxes,
)
from twinsight_core.training.loop import LoopConfig

HEIGHT, WIDTH = 64, 96
TINY = FasterRCNNConfig(
    backbone=ResNetConfig(depths=(1, 1, 1), widths=(16, 32, 32)),
    classes=2,
    strides=(8, 16),
    pyramid_channels=16,
    anchor_sizes=(16.0, 32.0),
    anchor_ratios=(0.5, 1.0, 2.0),
    candidates=60,
    proposals=24,
    canonical_px=32.0,
    head_width=32,
    max_detections=10,
)


def rectangles(count: int, *, seed: int = 0) -> BoxedImages:
    """Noise with one to three rectangles in it, red ones of class 0 and blue ones of class 1."""
    rng = np.random.default_rng(seed)
    images = rng.integers(90, 140, (count, HEIGHT, WIDTH, 3)).astype(np.uint8)
    boxes, labels = np.zeros((count, 3, 4), np.float32), np.zeros((count, 3), np.int32)
    valid = np.zeros((count, 3), np.bool_)
    for row in range(count):
        # One in each third of the picture, so that none hides another.
        for place in range(rng.integers(1, 4)):
            width, height = rng.integers(12, 28), rng.integers(12, 44)
            x, y = 32 * place + rng.integers(0, 32 - width), rng.integers(0, HEIGHT - height)
            label = int(rng.integers(0, 2))
            images[row, y : y + height, x : x + width] = [(220, 30, 30), (30, 30, 220)][label]
            boxes[row, place] = np.array([x, y, x + width, y + height]) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
            labels[row, place], valid[row, place] = label, True
    return BoxedImages(
        images=images,
        boxes=boxes,
        labels=labels,
        valid=valid,
        ignored=np.zeros_like(valid),
        sizes=np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (count, 1)),
        classes=("red", "blue"),
        files=tuple(f"{row}.png" for row in range(count)),
    )


def test_a_tiny_detector_learns_rectangles(tmp_path: Path) -> None:
    data = rectangles(16)
    how = DetectorTraining(
        network=TINY,
        batch=8,
        sampling=Sampling(anchors=64, rois=24, roi_share=0.5),
        augmentation=BoxAugmentation(untouched=0.5, mirror_y=0.5),
        loop=LoopConfig(
            steps=240, learning_rate=5e-3, warmup_steps=20, average=0.95, gradient_norm=5.0, checkpoint_every=120
        ),
    )
    network, trained, score = train_detector(
        drawn(partial(FasterRCNN, config=TINY), seed=0),
        data,
        data,
        how,
        checkpoints=tmp_path / "checkpoints",
    )
    assert score.ap_50 > 0.9
    assert trained.score == pytest.approx(score.ap_50, abs=1e-6)
    found = found_boxes(np.asarray(nnx.jit(lambda network, images: network(images))(network, data.images)))
    assert [len(one.labels) for one in true_boxes(data)] == data.valid.sum(axis=1).tolist()
    assert all((one.scores > 0).all() for one in found)


def batch_of(data: BoxedImages) -> DetectorBatch:
    return DetectorBatch(data.images, data.boxes, data.labels, data.valid, data.ignored)


def test_the_loss_is_the_sum_of_its_parts_and_leaves_evaluation_statistics() -> None:
    data = rectangles(2)
    batch = batch_of(data)
    network = drawn(partial(FasterRCNN, config=TINY), seed=0)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(network, nnx.BatchStat))]
    loss, parts = nnx.jit(detector_loss, static_argnames=("augmentation",))(
        network, batch, jax.random.key(0), augmentation=BoxAugmentation()
    )
    assert set(parts) == {"objectness", "proposal", "classification", "regression"}
    assert float(loss) == pytest.approx(sum(float(part) for part in parts.values()), rel=1e-5)
    after = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(network, nnx.BatchStat))]
    assert all((one == other).all() for one, other in zip(before, after, strict=True))


def test_every_picture_comes_once_before_any_comes_again() -> None:
    data = rectangles(6)
    sampler = DetectorSampler(data, batch=2, seed=5)
    rounds = [
        [image.tobytes() for step in range(3 * r, 3 * r + 3) for image in sampler.batch(step).images] for r in (0, 1)
    ]
    every = {image.tobytes() for image in data.images}
    assert [set(one) for one in rounds] == [every, every]
    assert rounds[0] != rounds[1]
    np.testing.assert_array_equal(sampler.batch(4).images, DetectorSampler(data, batch=2, seed=5).batch(4).images)


@pytest.mark.parametrize("batch", [2, 3, 4, 5, 7])
def test_no_picture_is_left_out_where_the_batch_does_not_divide_the_set(batch: int) -> None:
    data = rectangles(7)
    sampler = DetectorSampler(data, batch=batch, seed=5)
    count = dict.fromkeys((image.tobytes() for image in data.images), 0)
    for step in range(4 * 7):
        for image in sampler.batch(step).images:
            count[image.tobytes()] += 1
        # None comes again before all came.
        assert max(count.values()) - min(count.values()) <= (1 if (step + 1) * batch % 7 else 0)
    assert set(count.values()) == {4 * batch}


def test_too_few_pictures_and_other_classes_are_told(tmp_path: Path) -> None:
    data = rectangles(2)
    with pytest.raises(TrainingError, match="There are 2 pictures to train on; a batch needs 3"):
        DetectorSampler(data, batch=3, seed=0)
    three = FasterRCNNConfig(classes=3)
    with pytest.raises(TrainingError, match="must both be the network's 3"):
        train_detector(
            nnx.eval_shape(lambda: FasterRCNN(config=three, rngs=nnx.Rngs(0))),
            data,
            data,
            DetectorTraining(network=three),
            checkpoints=tmp_path,
        )


def test_nothing_in_a_region_to_be_ignored_is_trained_on() -> None:
    data = rectangles(2)
    network = drawn(partial(FasterRCNN, config=TINY), seed=0)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    mirrored = BoxAugmentation(zoom=(1.0, 1.0), aspect=1.0, shift=0.0, mirror_x=1.0, colour=0.0, untouched=0.0)
    loss = nnx.jit(detector_loss, static_argnames=("augmentation",))

    def parts(data: BoxedImages, augmentation: BoxAugmentation | None = None) -> dict[str, float]:
        _, found = loss(network, batch_of(data), jax.random.key(0), augmentation=augmentation)
        return {name: float(value) for name, value in found.items()}

    nowhere = np.zeros_like(data.valid)
    background = parts(replace(data, valid=nowhere))
    assert background["objectness"] > 0
    assert background["classification"] > 0
    # Anchors reach beyond the picture, proposals do not.
    beyond = np.broadcast_to(np.array([-1, -1, 2, 2], np.float32), data.boxes.shape)
    nothing = {"objectness": 0, "proposal": 0, "classification": 0, "regression": 0}
    assert parts(replace(data, valid=nowhere, ignored=~nowhere, boxes=beyond)) == nothing
    whole = np.clip(beyond, 0, 1)
    assert parts(replace(data, valid=nowhere, ignored=~nowhere, boxes=whole), mirrored)["classification"] == 0


CROWDED = {
    "images": [{"id": 7, "file_name": "a.png", "height": 100, "width": 200}],
    "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "plate"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [100, 10, 90, 80], "area": 7200, "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 2, "bbox": [20, 60, 40, 30], "area": 1200, "iscrowd": 0},
    ],
}
IN_CROWD = [
    {"image_id": 7, "category_id": 1, "bbox": [110, 20, 20, 20], "score": 0.95},
    {"image_id": 7, "category_id": 1, "bbox": [150, 50, 30, 30], "score": 0.90},
    {"image_id": 7, "category_id": 1, "bbox": [11, 10, 40, 40], "score": 0.50},
    # In the crowd of another class, and half outside one: these two are wrong.
    {"image_id": 7, "category_id": 2, "bbox": [110, 20, 20, 20], "score": 0.80},
    {"image_id": 7, "category_id": 2, "bbox": [20, 60, 40, 28], "score": 0.60},
]


def test_scores_with_crowds_equal_those_of_pycocotools_on_the_same_file(
    tmp_path: Path, evaluated_by_pycocotools: Callable[[object, Sequence[object]], Any]
) -> None:
    evaluation = evaluated_by_pycocotools(CROWDED, IN_CROWD)
    (tmp_path / "set").mkdir()
    Image.new("RGB", (200, 100)).save(tmp_path / "set" / "a.png")
    data = read_coco(tmp_path / "truth.json", tmp_path / "set", preprocessing=Preprocessing(height_px=50, width_px=100))
    detections = json.loads((tmp_path / "found.json").read_text())
    corners = np.array([[x, y, x + width, y + height] for x, y, width, height in (one["bbox"] for one in detections)])
    found = FoundBoxes(
        boxes=corners / [200, 100, 200, 100],
        labels=np.array([one["category_id"] for one in detections]) - 1,
        scores=np.array([one["score"] for one in detections]),
    )
    score = detection_score(true_boxes(data), [found], classes=2)
    assert (score.ap, score.ap_50, score.ap_75) == pytest.approx(tuple(evaluation.stats[:3]), abs=1e-12)
    assert score.class_ap_50 == pytest.approx((1.0, 0.5))
    assert score.boxes == 2
