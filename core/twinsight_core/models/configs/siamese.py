"""What a Siamese network is made of, as a model package says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from typing import ClassVar, Literal

from twinsight_core.json_fields import JsonFields
from twinsight_core.models.configs.backbones import BackboneConfig, backbone_config
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.tasks import Task

MAX_DIMENSION = 4096
MAX_MAP = 64
POOLINGS: tuple[Literal["mean", "flatten"], ...] = ("mean", "flatten")


@dataclass(frozen=True)
class SiameseConfig:
    """What a Siamese network is made of.

    Attributes:
        backbone: the network that both pictures go through.
        dimension: components of the embedding, 2..4096.
        pooling: what becomes of the last map: "mean" over its places, which forgets where things are, or "flatten",
            which keeps it.
        map_px: for "flatten", rows and columns of the last map; 0 for "mean".

    Raises:
        ValueError: a value breaks its rule.
    """

    TASK: ClassVar[Task] = "embedding"

    backbone: BackboneConfig = field(default_factory=MobileNetConfig)
    dimension: int = 256
    pooling: Literal["mean", "flatten"] = "mean"
    map_px: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.dimension <= MAX_DIMENSION:
            raise ValueError(f"`dimension` (={self.dimension}) must lie in 2..{MAX_DIMENSION}.")
        if (self.pooling == "flatten") != (self.map_px > 0):
            raise ValueError(f"`map_px` (={self.map_px}) must be above 0 for `pooling` flatten, and 0 for mean.")

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Shape of the answer for one picture: the embedding."""
        return (self.dimension,)

    def to_json(self) -> dict[str, object]:
        """Returns plain values, by the attributes' names."""
        return {
            "backbone": self.backbone.to_json(),
            "dimension": self.dimension,
            "pooling": self.pooling,
            "map_px": self.map_px,
        }

    @classmethod
    def from_json(cls, fields: JsonFields) -> SiameseConfig:
        """Returns the configuration of `to_json`'s values.

        Raises:
            ValueError: a value is of the wrong type or breaks its rule.
        """
        fields.check_names(field.name for field in fields_of(cls))
        return cls(
            backbone=backbone_config(fields.object("backbone")),
            dimension=fields.integer("dimension", least=2, most=MAX_DIMENSION),
            pooling=fields.choice("pooling", POOLINGS),
            map_px=fields.integer("map_px", least=0, most=MAX_MAP),
        )
