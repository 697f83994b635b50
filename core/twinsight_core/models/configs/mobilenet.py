"""What a MobileNetV1 is made of, as a model package says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twinsight_core.json_fields import JsonFields

# (output channels at width 1, stride) of the thirteen blocks; table 1 of the paper
# (`twinsight_core.models.mobilenet`).
BLOCKS: tuple[tuple[int, int], ...] = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)


@dataclass(frozen=True)
class MobileNetConfig:
    """What a MobileNetV1 is made of.

    Attributes:
        width_multiplier: factor on every layer's channels, 0.1..2.

    Raises:
        ValueError: a value breaks its rule.
    """

    NAME: ClassVar[str] = "mobilenet_v1"

    width_multiplier: float = 0.75

    def __post_init__(self) -> None:
        if not 0.1 <= self.width_multiplier <= 2.0:
            raise ValueError(f"`width_multiplier` (={self.width_multiplier}) must lie in 0.1..2.")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the picture that one step in each map of `MobileNetV1.stages` spans."""
        return tuple(2 ** (stage + 1) for stage in range(1 + sum(stride == 2 for _, stride in BLOCKS)))

    def to_json(self) -> dict[str, object]:
        """Returns plain values, by the attributes' names, and the backbone's name."""
        return {"name": self.NAME, "width_multiplier": self.width_multiplier}

    @classmethod
    def from_json(cls, fields: JsonFields) -> MobileNetConfig:
        """Returns the configuration of `to_json`'s values.

        Raises:
            ValueError: a value is of the wrong type or breaks its rule.
        """
        fields.check_names(("name", "width_multiplier"))
        return cls(width_multiplier=fields.number("width_multiplier"))
