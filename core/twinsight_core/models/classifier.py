"""The classifier: a convolutional network, the mean over the picture, a linear layer, and softmax.

Source: the layout of He et al., CVPR 2016, and Howard et al., 2017 (see the backbones); the temperature is that of Guo
et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from twinsight_core.models.backbones import build_backbone
from twinsight_core.models.configs.classifier import ClassifierConfig


class Classifier(nnx.Module):
    """A backbone, the mean over the picture, a linear layer, and softmax at a temperature.

    Args:
        config: what it is made of.
        rngs: source of the first weights.
    """

    def __init__(self, *, config: ClassifierConfig, rngs: nnx.Rngs) -> None:
        self.backbone_config = config.backbone
        self.backbone = build_backbone(config.backbone, rngs=rngs)
        self.head = nnx.Linear(self.backbone.channels, config.classes, rngs=rngs)
        self.temperature = config.temperature

    @property
    def trunk(self) -> tuple[nnx.Module, ...]:
        """What comes before the head; see `bfloat16`."""
        return (self.backbone,)

    def features(self, images: jax.Array) -> jax.Array:
        """Returns the backbone's features before the head, [batch, channels] float32.

        Args:
            images: [batch, height, width, 3] uint8 (or float in the same range), RGB, 0..255.
        """
        return jnp.mean(self.backbone(images), axis=(1, 2), dtype=jnp.float32)

    def logits(self, images: jax.Array) -> jax.Array:
        """Returns what softmax makes probabilities of at temperature 1, [batch, classes] float32."""
        return self.head(self.features(images))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the probability of each class.

        Args:
            images: [batch, height, width, 3] uint8 (or float in the same range), RGB, 0..255.

        Returns:
            [batch, classes] float32, 0..1, rows that add up to 1.
        """
        return jax.nn.softmax(self.logits(images) / self.temperature, axis=-1)
