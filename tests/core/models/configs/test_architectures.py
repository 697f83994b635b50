from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from twinsight_core.models.configs.architectures import Config, check_input
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilefacenet import MobileFaceNetConfig
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.packages import ModelCard, find_package

FLAT = SiameseConfig(pooling="flatten", map_px=4)
EVERY_PIXEL = FasterRCNNConfig(
    backbone=ResNetConfig(depths=(1,), widths=(8,), stem="small"),
    strides=(1,),
    anchor_sizes=(8.0,),
    anchor_scales=(1.0, 2.0, 3.0, 4.0),
    anchor_ratios=(0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 3.0, 5.0),
)
AT_FOUR = FasterRCNNConfig(backbone=ResNetConfig(), strides=(4, 8, 16, 32), anchor_sizes=(32.0, 64.0, 128.0, 256.0))


@pytest.mark.parametrize(
    ("config", "height_px", "width_px", "message"),
    [
        (FLAT, 128, 96, "`config.map_px` (=4) does not fit an input of 128x96 pixels, whose last map has 4x3 places."),
        (
            FLAT,
            129,
            128,
            "`config.map_px` (=4) does not fit an input of 129x128 pixels, whose last map has 5x4 places.",
        ),
        (
            MobileFaceNetConfig(),
            96,
            112,
            "`config.map_rows` and `config.map_columns` (=7x6) do not fit an input of 96x112 pixels; they are of "
            "112x96 pixels.",
        ),
        (
            EVERY_PIXEL,
            4096,
            4096,
            "`config` gives an input of 4096x4096 pixels 536,870,912 anchors, places x `anchor_scales` x "
            "`anchor_ratios`; it may have 5,000,000.",
        ),
    ],
)
def test_an_input_that_does_not_fit_is_told(config: Config, height_px: int, width_px: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_input(config, height_px=height_px, width_px=width_px)


@pytest.mark.parametrize(
    ("config", "height_px", "width_px"),
    [
        (FLAT, 128, 97),
        (SiameseConfig(), 7, 300),
        (ClassifierConfig(), 7, 300),
        (MobileFaceNetConfig(), 112, 96),
        (AT_FOUR, 4096, 4096),
    ],
)
def test_an_input_that_fits_is_let_through(config: Config, height_px: int, width_px: int) -> None:
    check_input(config, height_px=height_px, width_px=width_px)


def test_the_anchors_of_an_input_are_counted_on_all_maps() -> None:
    # 5x5, 3x3 and 2x2 places with three shapes each.
    assert FasterRCNNConfig().anchors(33, 40) == 3 * (25 + 9 + 4)


def test_a_card_whose_input_does_not_fit_its_network_is_refused() -> None:
    card = find_package("glyph").card
    larger = replace(card, preprocessing=replace(card.preprocessing, height_px=128, width_px=128))
    with pytest.raises(ValueError, match=r"^`config\.map_px` \(=4\) does not fit an input of 128x128 pixels"):
        ModelCard.from_json(json.loads(json.dumps(larger.to_json())))
