"""Architectures by name: what a model package may ask for."""

from __future__ import annotations

from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilefacenet import STRIDE, MobileFaceNetConfig
from twinsight_core.models.configs.rcnn import MAX_ANCHORS, FasterRCNNConfig
from twinsight_core.models.configs.siamese import SiameseConfig

Config = SiameseConfig | ClassifierConfig | MobileFaceNetConfig | FasterRCNNConfig
"""The configuration of any architecture; its `TASK` says what the network is for and `answer_shape` what it gives."""


ARCHITECTURES: dict[
    str, type[SiameseConfig] | type[ClassifierConfig] | type[MobileFaceNetConfig] | type[FasterRCNNConfig]
] = {
    "siamese": SiameseConfig,
    "classifier": ClassifierConfig,
    "mobilefacenet": MobileFaceNetConfig,
    "faster_rcnn": FasterRCNNConfig,
}


def check_input(config: Config, *, height_px: int, width_px: int) -> None:
    """Checks that a network takes pictures of a size, which some are made for.

    Args:
        config: of the network.
        height_px: of its input.
        width_px: of its input.

    Raises:
        ValueError: its last map would be of another size than its weights are for, or it would have too many anchors.
    """
    size = f"an input of {height_px}x{width_px} pixels"
    match config:
        case SiameseConfig(pooling="flatten", map_px=side):
            stride = config.backbone.strides[-1]
            rows, columns = -(-height_px // stride), -(-width_px // stride)
            if (rows, columns) != (side, side):
                raise ValueError(
                    f"`config.map_px` (={side}) does not fit {size}, whose last map has {rows}x{columns} places."
                )
        case MobileFaceNetConfig(map_rows=rows, map_columns=columns):
            if (height_px, width_px) != (STRIDE * rows, STRIDE * columns):
                raise ValueError(
                    f"`config.map_rows` and `config.map_columns` (={rows}x{columns}) do not fit {size}; they are of "
                    f"{STRIDE * rows}x{STRIDE * columns} pixels."
                )
        case FasterRCNNConfig():
            count = config.anchors(height_px, width_px)
            if count > MAX_ANCHORS:
                raise ValueError(
                    f"`config` gives {size} {count:,} anchors, places x `anchor_scales` x `anchor_ratios`; it may have "
                    f"{MAX_ANCHORS:,}."
                )
        case _:
            pass
