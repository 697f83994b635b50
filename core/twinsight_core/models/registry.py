"""Architectures by name: the only way from a model package's JSON to a network.

A package names an architecture and has its configuration as plain values; nothing else of it reaches a constructor.
Every network returns one float32 array per picture, whose meaning is defined by the architecture's task.
"""

from __future__ import annotations

from flax import nnx

from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.architectures import Config
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilefacenet import MobileFaceNetConfig
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.mobilefacenet import MobileFaceNet
from twinsight_core.models.rcnn import FasterRCNN
from twinsight_core.models.siamese import SiameseNetwork

Network = SiameseNetwork | Classifier | MobileFaceNet | FasterRCNN
"""A network of any architecture: [batch, height, width, 3] uint8 -> [batch, *answer_shape] float32."""


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


def telling_all(network: Network) -> Network:
    """Returns a network with the same weights that drops no detection for its score; other networks unchanged."""
    return network.telling_all() if isinstance(network, FasterRCNN) else network
