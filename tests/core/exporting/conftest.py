from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from twinsight_core.images import Preprocessing
from twinsight_core.models.configs.architectures import Config
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilefacenet import MobileFaceNetConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.registry import build_network
from twinsight_core.packages import ModelCard, ModelPackage, label_count, save_package

CONFIGS: dict[str, Config] = {
    "siamese": SiameseConfig(backbone=MobileNetConfig(width_multiplier=0.1), dimension=4),
    "classifier": ClassifierConfig(backbone=ResNetConfig(depths=(1, 1), widths=(4, 6)), classes=3),
    "mobilefacenet": MobileFaceNetConfig(dimension=4, map_rows=2, map_columns=2),
    # A row of the answer more than there are candidates, so that some stay empty.
    "faster_rcnn": FasterRCNNConfig(
        backbone=ResNetConfig(depths=(1, 1), widths=(4, 6), stem="small"),
        classes=2,
        strides=(1, 2),
        pyramid_channels=8,
        anchor_sizes=(8.0, 16.0),
        candidates=20,
        proposals=10,
        head_width=8,
        max_detections=21,
    ),
}


@pytest.fixture
def packaged(tmp_path: Path) -> Callable[[str], ModelPackage]:
    """A small package of an architecture, for pictures of 32x32 pixels."""

    def package(architecture: str) -> ModelPackage:
        config = CONFIGS[architecture]
        card = ModelCard(
            architecture=architecture,
            config=config,
            task=config.TASK,
            preprocessing=Preprocessing(height_px=32, width_px=32),
            dimension=config.answer_shape[0] if config.TASK == "embedding" else 0,
            licence="",
            training_data="",
            description="",
            labels=tuple(f"class {number}" for number in range(label_count(config))),
        )
        return save_package(tmp_path / architecture, card, drawn(partial(build_network, config), seed=0))

    return package
