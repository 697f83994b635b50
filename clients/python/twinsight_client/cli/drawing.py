"""Draws detections on a copy of a picture."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from twinsight_client.cli.output import printable
from twinsight_client.images import upright_rgb
from twinsight_client.results import Detection

# Shares of the picture's shorter side, and the smallest sizes in pixels that are still legible.
LINE_SHARE, LEAST_LINE_PX = 1 / 200, 2
TEXT_SHARE, LEAST_TEXT_PX = 1 / 30, 12
PAPER = (255, 255, 255)
COLOURS = ((178, 24, 43), (33, 102, 172), (27, 120, 55), (118, 42, 131), (166, 86, 40), (0, 104, 110))
"""Dark enough for white text."""


class Undrawable(Exception):
    """The picture can't be read here, even if the server could, or its copy can't be written."""


def draw_detections(path: Path, detections: Sequence[Detection]) -> Image.Image:
    """Returns the picture as the server sees it, as RGB, with the boxes, labels and scores, the highest score on top.

    Args:
        path: the picture.
        detections: the highest score first.

    Raises:
        Undrawable: the picture no longer exists, or Pillow can't read its format or size.
    """
    picture = _upright(path)
    pen = ImageDraw.Draw(picture)
    short = min(picture.size)
    line = max(LEAST_LINE_PX, round(short * LINE_SHARE))
    font = ImageFont.load_default(size=max(LEAST_TEXT_PX, round(short * TEXT_SHARE)))
    for one in reversed(detections):
        colour = colour_of(one.label)
        left, top = one.box.x_min * picture.width, one.box.y_min * picture.height
        right, bottom = one.box.x_max * picture.width - 1, one.box.y_max * picture.height - 1
        # A box narrower than a pixel still has one.
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
    # After the boxes, whose lines would cross the text.
    for one in reversed(detections):
        colour = colour_of(one.label)
        left, top = one.box.x_min * picture.width, one.box.y_min * picture.height
        _write_label(picture, f"{printable(one.label)} {one.score:.2f}", (left, top), colour, font)
    return picture


def colour_of(label: str) -> tuple[int, int, int]:
    """Returns a label's colour, the same in every picture."""
    return COLOURS[zlib.crc32(label.encode()) % len(COLOURS)]


def _write_label(
    picture: Image.Image,
    text: str,
    corner: tuple[float, float],
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Writes above a box's corner, or below it at the edge of the picture; within the picture if it fits."""
    pen = ImageDraw.Draw(picture)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0.0, min(corner[0], picture.width - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x + 2 - left, y + 2 - top), text, fill=PAPER, font=font)


def _upright(path: Path) -> Image.Image:
    try:
        # Pillow warns above 90 million pixels: more than a server accepts, and too much memory here.
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(path) as picture,
        ):
            return upright_rgb(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Undrawable(str(error)) from error
