"""What a Faster R-CNN is made of, as a model package says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from itertools import pairwise
from typing import ClassVar

from twinsight_core.json_fields import JsonFields
from twinsight_core.models.configs.backbones import BackboneConfig, backbone_config
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.tasks import Task

# What a package may ask for at most: together they bound the memory of a picture.
MAX_CLASSES, MAX_CHANNELS, MAX_HEAD_WIDTH = 1000, 1024, 4096
MAX_CANDIDATES, MAX_PROPOSALS, MAX_DETECTIONS = 2000, 1000, 1000
MAX_STRIDE, MAX_SHAPES = 128, 32
MAX_ANCHORS = 5_000_000
"""Of an input, on all maps: some 240 MB while they are laid out. A feature pyramid from stride 4 with three shapes has
270,000 at 1333x800 pixels; one from stride 8 with nine, 3,100,000 at 4096x4096."""
GROUP_CHANNELS = 8
"""Channels of the pyramid that are normalised together; its width is a multiple of it."""
COLUMNS = 6
"""Numbers of a detection: four edges, score, label."""


@dataclass(frozen=True)
class FasterRCNNConfig:
    """What a Faster R-CNN is made of; the defaults suit 240x320 pixels on two cores.

    Attributes:
        backbone: the network below the pyramid.
        classes: kinds of things, background not among them.
        strides: of the maps of the pyramid, finest first, each twice the one before; the backbone must have them.
        pyramid_channels: channels of every map of the pyramid, a multiple of 8.
        anchor_sizes: side of a square anchor on the map of each stride, in pixels of the input.
        anchor_scales: factors on it, one anchor each.
        anchor_ratios: height by width, one anchor each for every scale.
        candidates: best anchors of each map that may become proposals.
        proposals: boxes that the box head looks at.
        proposal_overlap: of proposals that overlap by more only the best stays, 0..1.
        canonical_px: side of the boxes that are looked up in the map of stride 16; twice as large, in that of 32.
        head_width: channels of the two layers of the box head.
        max_detections: rows of the answer.
        detection_overlap: of detections of a class that overlap by more only the best stays, 0..1.
        least_score: detections below are left out, 0..1.

    Raises:
        ValueError: a value breaks its rule.
    """

    TASK: ClassVar[Task] = "detection"

    backbone: BackboneConfig = field(default_factory=MobileNetConfig)
    classes: int = 1
    strides: tuple[int, ...] = (8, 16, 32)
    pyramid_channels: int = 64
    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0)
    anchor_scales: tuple[float, ...] = (1.0,)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    candidates: int = 200
    proposals: int = 100
    proposal_overlap: float = 0.7
    canonical_px: float = 112.0
    head_width: int = 256
    max_detections: int = 100
    detection_overlap: float = 0.5
    least_score: float = 0.05

    def __post_init__(self) -> None:
        for name, most in (
            ("classes", MAX_CLASSES),
            ("pyramid_channels", MAX_CHANNELS),
            ("candidates", MAX_CANDIDATES),
            ("proposals", MAX_PROPOSALS),
            ("head_width", MAX_HEAD_WIDTH),
            ("max_detections", MAX_DETECTIONS),
        ):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must lie in 1..{most}.")
        if self.pyramid_channels % GROUP_CHANNELS:
            raise ValueError(f"`pyramid_channels` (={self.pyramid_channels}) must be a multiple of {GROUP_CHANNELS}.")
        of_backbone = self.backbone.strides
        doubling = all(b == 2 * a for a, b in pairwise(self.strides))
        if not self.strides or not doubling or not set(self.strides) <= set(of_backbone):
            raise ValueError(
                f"`strides` (={list(self.strides)}) must be some of the backbone's, {list(of_backbone)}, each twice "
                "the one before."
            )
        if len(self.anchor_sizes) != len(self.strides):
            raise ValueError(
                f"`anchor_sizes` (={list(self.anchor_sizes)}) must be as many as `strides` (={list(self.strides)})."
            )
        for name, low, high in (("anchor_sizes", 1, 4096), ("anchor_scales", 0.1, 10), ("anchor_ratios", 0.05, 20)):
            values = getattr(self, name)
            if not values or not all(low <= one <= high for one in values):
                raise ValueError(f"`{name}` (={list(values)}) must be numbers in {low}..{high}, at least one.")
        if self.shapes > MAX_SHAPES:
            raise ValueError(f"`anchor_scales` x `anchor_ratios` (={self.shapes}) must be at most {MAX_SHAPES}.")
        if not 1.0 <= self.canonical_px <= 4096.0:
            raise ValueError(f"`canonical_px` (={self.canonical_px}) must lie in 1..4096.")
        for name in ("proposal_overlap", "detection_overlap", "least_score"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must lie in 0..1.")

    @property
    def shapes(self) -> int:
        """Anchors around each place."""
        return len(self.anchor_scales) * len(self.anchor_ratios)

    def anchors(self, height_px: int, width_px: int) -> int:
        """Returns how many anchors an input of this size has, on all maps."""
        places = sum(-(-height_px // stride) * -(-width_px // stride) for stride in self.strides)
        return places * self.shapes

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Shape of the answer for one picture: a row a detection."""
        return (self.max_detections, COLUMNS)

    def to_json(self) -> dict[str, object]:
        """Returns plain values, by the attributes' names."""
        values: dict[str, object] = {}
        for one in fields_of(self):
            value = getattr(self, one.name)
            values[one.name] = list(value) if isinstance(value, tuple) else value
        return values | {"backbone": self.backbone.to_json()}

    @classmethod
    def from_json(cls, fields: JsonFields) -> FasterRCNNConfig:
        """Returns the configuration of `to_json`'s values.

        Raises:
            ValueError: a value is of the wrong type or breaks its rule.
        """
        fields.check_names(field.name for field in fields_of(cls))
        return cls(
            backbone=backbone_config(fields.object("backbone")),
            classes=fields.integer("classes", least=1, most=MAX_CLASSES),
            strides=fields.integers("strides", least=1, most=MAX_STRIDE),
            pyramid_channels=fields.integer("pyramid_channels", least=1, most=MAX_CHANNELS),
            anchor_sizes=fields.number_list("anchor_sizes"),
            anchor_scales=fields.number_list("anchor_scales"),
            anchor_ratios=fields.number_list("anchor_ratios"),
            candidates=fields.integer("candidates", least=1, most=MAX_CANDIDATES),
            proposals=fields.integer("proposals", least=1, most=MAX_PROPOSALS),
            proposal_overlap=fields.number("proposal_overlap"),
            canonical_px=fields.number("canonical_px"),
            head_width=fields.integer("head_width", least=1, most=MAX_HEAD_WIDTH),
            max_detections=fields.integer("max_detections", least=1, most=MAX_DETECTIONS),
            detection_overlap=fields.number("detection_overlap"),
            least_score=fields.number("least_score"),
        )
