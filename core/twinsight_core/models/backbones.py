"""Backbones by name: convolutional networks without their heads, and what a model package says of them.

A backbone takes pixels as they are decoded and normalises them itself, as it was trained to; what stands on it need not
know how.
"""

from __future__ import annotations

from typing import Protocol

import jax
from flax import nnx

from twinsight_core.models.configs.backbones import BackboneConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.mobilenet import MobileNetV1
from twinsight_core.models.resnet import ResNet


class Backbone(Protocol):
    """What turns pixels into feature maps.

    Attributes:
        channels: channels of the last map.
        stage_channels: channels of each map of `stages`.
        stage_strides: pixels of the picture that one step in each map of `stages` spans.
    """

    channels: int
    stage_channels: tuple[int, ...]
    stage_strides: tuple[int, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the last map, [batch, rows, columns, channels] float32.

        Args:
            images: [batch, height, width, 3] uint8 (or float in the same range), RGB, 0..255.
        """
        ...

    def stages(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the last map of each size, finest first."""
        ...


def build_backbone(config: BackboneConfig, *, rngs: nnx.Rngs) -> MobileNetV1 | ResNet:
    """Returns a new backbone with first weights."""
    if isinstance(config, MobileNetConfig):
        return MobileNetV1(width_multiplier=config.width_multiplier, rngs=rngs)
    return ResNet(config=config, rngs=rngs)
