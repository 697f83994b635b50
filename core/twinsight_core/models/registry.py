"""Architectures by name: the only way from a model package's JSON to a network.

A package names an architecture and gives its configuration as plain values; nothing else of it reaches a constructor.
Every network answers with one float32 array a picture, whose meaning is the architecture's task.
"""

from __future__ import annotations

from flax import nnx

from twinsight_core.models.classifier import Classifier, ClassifierConfig
from twinsight_core.models.siamese import SiameseConfig, SiameseNetwork

Config = SiameseConfig | ClassifierConfig
"""The configuration of any architecture; its `TASK` says what the network is for and `answer_shape` what it gives."""

Network = SiameseNetwork | Classifier
"""A network of any architecture: [batch, height, width, 3] uint8 -> [batch, *answer_shape] float32."""

ARCHITECTURES: dict[str, type[SiameseConfig] | type[ClassifierConfig]] = {
    "siamese": SiameseConfig,
    "classifier": ClassifierConfig,
}


def build_network(config: Config, *, rngs: nnx.Rngs) -> Network:
    """Returns a new network with first weights."""
    match config:
        case SiameseConfig():
            return SiameseNetwork(config=config, rngs=rngs)
        case ClassifierConfig():
            return Classifier(config=config, rngs=rngs)
