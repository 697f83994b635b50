"""JPEGs whose sides are no multiples of the scale that they are decoded at."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from twinsight_core.images import Preprocessing, Region, decode

WIDTH, HEIGHT, PX = 1537, 1289, 96
"""Decoded at a scale of 8, to 193 x 162 pixels, of which the last are an eighth of a pixel wide."""


@pytest.fixture
def picture() -> Pillow.Image:
    """White, with a black bar at each edge: of 64, 96, 128 and 160 pixels, from the left on clockwise."""
    pixels = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    pixels[:, :64] = pixels[:96] = pixels[:, -128:] = pixels[-160:] = 0
    return Pillow.fromarray(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("region", [None, Region(0.5, 0.4, 1.0, 1.0), Region(0.0, 0.0, 0.6, 0.5)])
def test_a_jpeg_lies_where_the_same_picture_as_png_does(
    picture: Pillow.Image, orientation: int, region: Region | None
) -> None:
    to = Preprocessing(PX, PX)
    exif = Pillow.Exif()
    exif[0x0112] = orientation

    jpeg, png = (decode(_encoded(picture, kind, exif), to, region=region) for kind in ("JPEG", "PNG"))

    assert _darkness(jpeg) == pytest.approx(_darkness(png), abs=0.06)


def test_version_1_takes_the_padding_for_picture(picture: Pillow.Image) -> None:
    """So that models of that version go on answering as they did."""
    png = decode(_encoded(picture, "PNG"), Preprocessing(PX, PX))
    jpeg = decode(_encoded(picture, "JPEG"), Preprocessing(PX, PX, version=1))

    assert _darkness(jpeg)[2] - _darkness(png)[2] > 0.3, "the bar on the right seems wider"


@pytest.mark.parametrize("version", [1, 2])
def test_multiples_of_the_scale_are_whole_pictures_in_each_version(version: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 768, 3), np.uint8)
    encoded = _encoded(Pillow.fromarray(noise), "JPEG")

    assert np.array_equal(
        decode(encoded, Preprocessing(PX, PX, version=version)), decode(encoded, Preprocessing(PX, PX))
    )


def _encoded(picture: Pillow.Image, kind: str, exif: Pillow.Exif | None = None) -> bytes:
    file = io.BytesIO()
    how = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    picture.save(file, kind, exif=exif or Pillow.Exif(), **how)
    return file.getvalue()


def _darkness(pixels: np.ndarray) -> list[float]:
    """Returns how many pixels of black there are on each side of the middle: left, upper, right, lower."""
    dark = 1 - pixels[..., 0] / 255
    middle = PX // 2
    across, down = dark[middle], dark[:, middle]
    return [float(one.sum()) for one in (across[:middle], down[:middle], across[middle:], down[middle:])]
