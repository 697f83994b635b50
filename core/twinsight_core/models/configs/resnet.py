"""What a residual network is made of, as a model package says it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from typing import ClassVar, Literal

from twinsight_core.json_fields import JsonFields

# Mean and standard deviation of ImageNet's pixels, 0..1, by which torchvision's networks expect them to be scaled.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BLOCKS: tuple[Literal["basic", "bottleneck"], ...] = ("basic", "bottleneck")
STEMS: tuple[Literal["imagenet", "strided", "small"], ...] = ("imagenet", "strided", "small")
# Window and stride of each stem's convolution, and the stride of the first stage's map.
STEM_LAYOUTS = {"imagenet": (7, 2, 4), "strided": (5, 2, 2), "small": (3, 1, 1)}
COLOURS: tuple[Literal["rgb", "grey"], ...] = ("rgb", "grey")
MAX_STAGES, MAX_DEPTH, MAX_WIDTH = 6, 64, 4096


@dataclass(frozen=True)
class ResNetConfig:
    """What a residual network is made of.

    Attributes:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        depths: blocks of each stage.
        widths: channels inside the blocks of each stage.
        stem: "imagenet" (7x7 with stride 2, then a pooling with stride 2), "strided" (5x5 with stride 2) or "small"
            (3x3 with stride 1).
        colour: "rgb", or "grey": the mean of the three channels.
        mean: what is taken from the pixels in 0..1, by channel; for "grey" the first counts.
        std: what they are then divided by.

    Raises:
        ValueError: a value breaks its rule.
    """

    NAME: ClassVar[str] = "resnet"

    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: Literal["imagenet", "strided", "small"] = "imagenet"
    colour: Literal["rgb", "grey"] = "rgb"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name, most in (("depths", MAX_DEPTH), ("widths", MAX_WIDTH)):
            values = getattr(self, name)
            if not 1 <= len(values) <= MAX_STAGES or not all(1 <= one <= most for one in values):
                raise ValueError(f"`{name}` (={list(values)}) must be 1 to {MAX_STAGES} integers in 1..{most}.")
        if len(self.depths) != len(self.widths):
            raise ValueError(f"`depths` (={list(self.depths)}) and `widths` (={list(self.widths)}) must be as many.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("`mean` and `std` must be three numbers each, those of `std` above 0.")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the picture that one step in each map of `ResNet.stages` spans."""
        return tuple(STEM_LAYOUTS[self.stem][2] * 2**stage for stage in range(len(self.widths)))

    def to_json(self) -> dict[str, object]:
        """Returns plain values, by the attributes' names, and the backbone's name."""
        values = {name: list(one) if isinstance(one, tuple) else one for name, one in asdict(self).items()}
        return {"name": self.NAME, **values}

    @classmethod
    def from_json(cls, fields: JsonFields) -> ResNetConfig:
        """Returns the configuration of `to_json`'s values.

        Raises:
            ValueError: a value is of the wrong type or breaks its rule.
        """
        fields.check_names(("name", *(field.name for field in fields_of(cls))))
        return cls(
            block=fields.choice("block", BLOCKS),
            depths=fields.integers("depths", least=1, most=MAX_DEPTH),
            widths=fields.integers("widths", least=1, most=MAX_WIDTH),
            stem=fields.choice("stem", STEMS),
            colour=fields.choice("colour", COLOURS),
            mean=fields.number_list("mean"),
            std=fields.number_list("std"),
        )
