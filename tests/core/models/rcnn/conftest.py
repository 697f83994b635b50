from __future__ import annotations

import pytest

from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.configs.resnet import ResNetConfig

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


@pytest.fixture(scope="session")
def tiny() -> FasterRCNNConfig:
    """A detector for pictures of 64x96."""
    return TINY
