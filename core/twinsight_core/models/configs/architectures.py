"""Architectures by name: what a model package may ask for."""

from __future__ import annotations

from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilefacenet import MobileFaceNetConfig
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.configs.siamese import SiameseConfig

Config = SiameseConfig | ClassifierConfig | MobileFaceNetConfig | FasterRCNNConfig
"""The configuration of any architecture; its `TASK` says what the network is for and `answer_shape` what it gives."""


ARCHITECTURES: dict[
    str, type[SiameseConfig] | type[ClassifierConfig] | type[MobileFaceNetConfig] | type[FasterRCNNConfig]
] = {
    "siamese": SiameseConfig,
    "classifier": ClassifierConfig,
    "mobilefacenet": MobileFaceNetConfig,
    "faster_rcnn": FasterRCNNConfig,
}
