"""The Siamese network: two pictures, one set of weights, one distance.

Source: Bromley et al., "Signature Verification using a 'Siamese' Time Delay Neural Network", NIPS 1993; the layout here
(a convolutional backbone, pooling, a linear embedding at length 1) is that of Schroff et al., "FaceNet", CVPR 2015.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from twinsight_core.models.backbones import build_backbone
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.layers import l2_normalise


class PairDistance(NamedTuple):
    """How far apart the two sides of each pair are.

    Attributes:
        euclidean: [batch] float32, distance between the unit vectors, 0..2.
        cosine: [batch] float32, cosine of the angle between them, -1..1.
    """

    euclidean: jax.Array
    cosine: jax.Array


def pair_distance(left: jax.Array, right: jax.Array) -> PairDistance:
    """Returns how far apart the rows of two sets of unit vectors are.

    The Euclidean distance is taken of the difference, not as sqrt(2 - 2 cosine), which loses half the digits where the
    two sides are close. Its gradient where they are equal is 0.

    Args:
        left: [batch, dimension] float32, unit vectors.
        right: [batch, dimension] float32, unit vectors.
    """
    squared = jnp.sum(jnp.square(left - right), axis=-1)
    apart = squared > 0
    euclidean = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
    return PairDistance(euclidean=euclidean, cosine=jnp.clip(jnp.sum(left * right, axis=-1), -1.0, 1.0))


class SiameseNetwork(nnx.Module):
    """A backbone, its last map pooled, a linear head, and length 1.

    Args:
        config: what it is made of.
        rngs: source of the first weights.
    """

    def __init__(self, *, config: SiameseConfig, rngs: nnx.Rngs) -> None:
        self.backbone_config = config.backbone
        self.backbone = build_backbone(config.backbone, rngs=rngs)
        places = config.map_px**2 if config.pooling == "flatten" else 1
        self.head = nnx.Linear(self.backbone.channels * places, config.dimension, rngs=rngs)
        self._pooling = config.pooling

    @property
    def trunk(self) -> tuple[nnx.Module, ...]:
        """What comes before the head; see `bfloat16`."""
        return (self.backbone,)

    def features(self, images: jax.Array) -> jax.Array:
        """Returns the backbone's features before the head.

        Args:
            images: [batch, height, width, 3] uint8 (or float in the same range), RGB, 0..255.

        Returns:
            [batch, channels] float32, times the places of the last map where it is flattened.
        """
        features = self.backbone(images)
        if self._pooling == "mean":
            return jnp.mean(features, axis=(1, 2), dtype=jnp.float32)
        features = features.astype(jnp.float32)
        return features.reshape(features.shape[0], -1)  # `len` would want a number where the batch is left open

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the embeddings of one side.

        Args:
            images: [batch, height, width, 3] uint8 (or float in the same range), RGB, 0..255.

        Returns:
            [batch, dimension] float32, unit vectors.
        """
        return l2_normalise(self.head(self.features(images)))

    def compare(self, left: jax.Array, right: jax.Array) -> PairDistance:
        """Returns how far apart the pictures of each pair are; both sides go through the same weights in one batch.

        Args:
            left: [batch, height, width, 3] uint8, RGB, 0..255.
            right: [batch, height, width, 3] uint8, RGB, 0..255.
        """
        both = self(jnp.concatenate([left, right]))
        return pair_distance(both[: len(left)], both[len(left) :])
