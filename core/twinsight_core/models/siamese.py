"""The Siamese network: two pictures, one set of weights, one distance.

Source: Bromley et al., "Signature Verification using a 'Siamese' Time Delay Neural Network", NIPS 1993; the layout here
(a convolutional backbone, pooling, a linear embedding at length 1) is that of Schroff et al., "FaceNet", CVPR 2015.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from twinsight_core.json_fields import JsonFields
from twinsight_core.models.layers import l2_normalise, normalise_pixels
from twinsight_core.models.mobilenet import MobileNetV1

MAX_DIMENSION = 4096


@dataclass(frozen=True)
class SiameseConfig:
    """What a Siamese network is made of.

    Attributes:
        backbone: name in `BACKBONES`.
        width_multiplier: factor on the backbone's channels, 0.1..2.
        dimension: components of the embedding, 2..4096.
    """

    backbone: str = "mobilenet_v1"
    width_multiplier: float = 0.75
    dimension: int = 256

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: a value breaks its rule.
        """
        if self.backbone not in BACKBONES:
            names = ", ".join(f"`{name}`" for name in sorted(BACKBONES))
            raise ValueError(f"`backbone` (={self.backbone!r}) must be one of {names}.")
        if not 0.1 <= self.width_multiplier <= 2.0:
            raise ValueError(f"`width_multiplier` (={self.width_multiplier}) must lie in 0.1..2.")
        if not 2 <= self.dimension <= MAX_DIMENSION:
            raise ValueError(f"`dimension` (={self.dimension}) must lie in 2..{MAX_DIMENSION}.")

    def to_json(self) -> dict[str, str | float | int]:
        """Returns plain values, by the attributes' names."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: JsonFields) -> SiameseConfig:
        """Returns the configuration of `to_json`'s values.

        Raises:
            ValueError: a value is of the wrong type or breaks its rule.
        """
        return cls(
            backbone=fields.text("backbone"),
            width_multiplier=fields.number("width_multiplier"),
            dimension=fields.integer("dimension", least=2, most=MAX_DIMENSION),
        )


class Backbone(Protocol):
    """What turns normalised pixels into a feature map.

    Attributes:
        channels: channels of the feature map.
    """

    channels: int

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, rows, columns, channels] float32 of [batch, height, width, 3] float32, RGB, -1..1."""
        ...


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
    """A backbone, the mean over the picture, a linear head, and length 1.

    Args:
        config: what it is made of.
        rngs: source of the first weights.
    """

    def __init__(self, *, config: SiameseConfig, rngs: nnx.Rngs) -> None:
        self.backbone = BACKBONES[config.backbone](width_multiplier=config.width_multiplier, rngs=rngs)
        self.head = nnx.Linear(self.backbone.channels, config.dimension, rngs=rngs)

    def features(self, images: jax.Array) -> jax.Array:
        """Returns the backbone's features before the head.

        Args:
            images: [batch, height, width, 3] uint8 (or float in the same range), RGB, 0..255.

        Returns:
            [batch, channels] float32.
        """
        return jnp.mean(self.backbone(normalise_pixels(images)), axis=(1, 2))

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


class BackboneMaker(Protocol):
    """Makes a backbone with first weights."""

    def __call__(self, *, width_multiplier: float, rngs: nnx.Rngs) -> MobileNetV1:
        """Returns a new backbone."""
        ...


BACKBONES: dict[str, BackboneMaker] = {"mobilenet_v1": MobileNetV1}
