"""Architectures by name: the only way from a model package's JSON to a network.

A package names an architecture and gives its configuration as plain values; nothing else of it reaches a constructor.
Every network answers with one float32 array a picture, whose meaning is the architecture's task.
"""

from __future__ import annotations

from flax import nnx

from twinsight_core.models.classifier import Classifier, ClassifierConfig
from twinsight_core.models.mobilefacenet import MobileFaceNet, MobileFaceNetConfig
from twinsight_core.models.rcnn import FasterRCNN, FasterRCNNConfig
from twinsight_core.models.siamese import SiameseConfig, SiameseNetwork

Config = SiameseConfig | ClassifierConfig | MobileFaceNetConfig | FasterRCNNConfig
"""The configuration of any architecture; its `TASK` says what the network is for and `answer_shape` what it gives."""

Network = SiameseNetwork | Classifier | MobileFaceNet | FasterRCNN
"""A network of any architecture: [batch, height, width, 3] uint8 -> [batch, *answer_shape] float32."""

ARCHITECTURES: dict[
    str, type[SiameseConfig] | type[ClassifierConfig] | type[MobileFaceNetConfig] | type[FasterRCNNConfig]
] = {
    "siamese": SiameseConfig,
    "classifier": ClassifierConfig,
    "mobilefacenet": MobileFaceNetConfig,
    "faster_rcnn": FasterRCNNConfig,
}


def build_network(config: Config, *, rngs: nnx.Rngs) -> Network:
    """Returns a new network with first weights."""
    match config:
        case SiameseConfig():
            return SiameseNetwork(config=config, rngs=rngs)
        case ClassifierConfig():
            return Classifier(config=config, rngs=rngs)
        case MobileFaceNetConfig():
            return MobileFaceNet(config=config, rngs=rngs)
        case FasterRCNNConfig():
            return FasterRCNN(config=config, rngs=rngs)
