"""The classifier: a convolutional network, the mean over the picture, a linear layer, and softmax.

Source: the layout of He et al., CVPR 2016, and Howard et al., 2017 (see the backbones); the temperature is that of Guo
et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from twinsight_core.json_fields import JsonFields
from twinsight_core.models.backbones import BackboneConfig, backbone_config, build_backbone
from twinsight_core.models.mobilenet import MobileNetConfig
from twinsight_core.models.tasks import Task

MAX_CLASSES = 100_000


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier is made of.

    Attributes:
        backbone: the network below the classes.
        classes: how many, at least 2.
        temperature: what the logits are divided by, above 0; calibration sets it.

    Raises:
        ValueError: a value breaks its rule.
    """

    TASK: ClassVar[Task] = "classification"

    backbone: BackboneConfig = field(default_factory=MobileNetConfig)
    classes: int = 2
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= MAX_CLASSES:
            raise ValueError(f"`classes` (={self.classes}) must lie in 2..{MAX_CLASSES}.")
        if not 0.01 <= self.temperature <= 100.0:
            raise ValueError(f"`temperature` (={self.temperature}) must lie in 0.01..100.")

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Shape of the answer for one picture: a probability a class."""
        return (self.classes,)

    def to_json(self) -> dict[str, object]:
        """Returns plain values, by the attributes' names."""
        return {"backbone": self.backbone.to_json(), "classes": self.classes, "temperature": self.temperature}

    @classmethod
    def from_json(cls, fields: JsonFields) -> ClassifierConfig:
        """Returns the configuration of `to_json`'s values.

        Raises:
            ValueError: a value is of the wrong type or breaks its rule.
        """
        fields.check_names(field.name for field in fields_of(cls))
        return cls(
            backbone=backbone_config(fields.object("backbone")),
            classes=fields.integer("classes", least=2, most=MAX_CLASSES),
            temperature=fields.number("temperature"),
        )


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
        """What comes before the head; see `precision`."""
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
