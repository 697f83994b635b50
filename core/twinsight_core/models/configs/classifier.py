"""What a classifier is made of, as a model package says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from typing import ClassVar

from twinsight_core.json_fields import JsonFields
from twinsight_core.models.configs.backbones import BackboneConfig, backbone_config
from twinsight_core.models.configs.mobilenet import MobileNetConfig
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
