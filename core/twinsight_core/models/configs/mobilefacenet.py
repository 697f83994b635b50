"""What a MobileFaceNet is made of, as a model package says it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from typing import ClassVar

from twinsight_core.json_fields import JsonFields
from twinsight_core.models.configs.siamese import MAX_DIMENSION, MAX_MAP
from twinsight_core.models.tasks import Task

STRIDE = 16
"""Pixels of the picture that one step in the last map spans."""


@dataclass(frozen=True)
class MobileFaceNetConfig:
    """What a MobileFaceNet is made of.

    Attributes:
        dimension: components of the embedding, 2..4096.
        map_rows: rows of the last map: the input's height by 16, 1..64.
        map_columns: columns of the last map: the input's width by 16, 1..64.

    Raises:
        ValueError: a value breaks its rule.
    """

    TASK: ClassVar[Task] = "embedding"

    dimension: int = 128
    map_rows: int = 7
    map_columns: int = 6

    def __post_init__(self) -> None:
        if not 2 <= self.dimension <= MAX_DIMENSION:
            raise ValueError(f"`dimension` (={self.dimension}) must lie in 2..{MAX_DIMENSION}.")
        for name, value in (("map_rows", self.map_rows), ("map_columns", self.map_columns)):
            if not 1 <= value <= MAX_MAP:
                raise ValueError(f"`{name}` (={value}) must lie in 1..{MAX_MAP}.")

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Shape of the answer for one picture: the embedding."""
        return (self.dimension,)

    def to_json(self) -> dict[str, object]:
        """Returns plain values, by the attributes' names."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: JsonFields) -> MobileFaceNetConfig:
        """Returns the configuration of `to_json`'s values.

        Raises:
            ValueError: a value is of the wrong type or breaks its rule.
        """
        fields.check_names(field.name for field in fields_of(cls))
        return cls(
            dimension=fields.integer("dimension", least=2, most=MAX_DIMENSION),
            map_rows=fields.integer("map_rows", least=1, most=MAX_MAP),
            map_columns=fields.integer("map_columns", least=1, most=MAX_MAP),
        )
