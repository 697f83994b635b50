import json
import re
from dataclasses import replace

import pytest

from twinsight_core.json_fields import JsonFields
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.configs.resnet import ResNetConfig


def test_json_gives_back_the_configuration() -> None:
    other = FasterRCNNConfig(
        backbone=ResNetConfig(depths=(1, 1, 1, 1)), classes=3, anchor_ratios=(1.0,), least_score=0.2
    )
    for config in (FasterRCNNConfig(), other):
        values = json.loads(json.dumps(config.to_json()))
        assert FasterRCNNConfig.from_json(JsonFields(values)) == config


def test_unknown_and_missing_fields_are_told() -> None:
    values = FasterRCNNConfig().to_json()
    with pytest.raises(ValueError, match=r"^`colour` is unknown\.$"):
        FasterRCNNConfig.from_json(JsonFields(values | {"colour": 1}))
    del values["proposals"]
    with pytest.raises(ValueError, match=r"^`proposals` is missing\.$"):
        FasterRCNNConfig.from_json(JsonFields(values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 0}, "`classes` (=0) must lie in 1..1000."),
        ({"pyramid_channels": 20}, "`pyramid_channels` (=20) must be a multiple of 8."),
        (
            {"strides": (8, 32), "anchor_sizes": (8.0, 32.0)},
            "`strides` (=[8, 32]) must be some of the backbone's, [2, 4, 8, 16, 32], each twice the one before.",
        ),
        ({"strides": (32, 64)}, "`strides` (=[32, 64]) must be some of the backbone's"),
        ({"strides": ()}, "`strides` (=[]) must be some of the backbone's"),
        ({"anchor_sizes": (8.0,)}, "`anchor_sizes` (=[8.0]) must be as many as `strides` (=[8, 16, 32])."),
        ({"anchor_ratios": ()}, "`anchor_ratios` (=[]) must be numbers in 0.05..20, at least one."),
        ({"anchor_scales": (1.0,) * 11}, "`anchor_scales` x `anchor_ratios` (=33) must be at most 32."),
        ({"detection_overlap": 1.5}, "`detection_overlap` (=1.5) must lie in 0..1."),
        ({"canonical_px": 0.0}, "`canonical_px` (=0.0) must lie in 1..4096."),
    ],
)
def test_rules_are_told(changes: dict[str, object], message: str) -> None:
    values = FasterRCNNConfig().to_json() | {
        name: list(value) if isinstance(value, tuple) else value for name, value in changes.items()
    }
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        # Most rules are of the configuration itself; some are met while it is read.
        replace(FasterRCNNConfig(), **changes)  # type: ignore[arg-type]  # the wrong values are the point
    with pytest.raises(ValueError, match=re.escape(f"`{next(iter(changes))}`")):
        FasterRCNNConfig.from_json(JsonFields(values))


def test_the_answer_is_a_row_a_detection() -> None:
    assert FasterRCNNConfig(max_detections=7).answer_shape == (7, 6)
    assert FasterRCNNConfig.TASK == "detection"
