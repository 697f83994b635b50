"""Contact sheets: a query and its matches as labelled thumbnails, to judge at a glance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from twinsight_client.cli.output import printable
from twinsight_client.images import Region, upright_rgb

THUMB_PX = 200
MARGIN_PX = 12
LINE_PX = 16
TEXT_PX = 13
FRAME_PX = 4
PAPER = (255, 255, 255)
INK = (32, 32, 32)
FAINT = (208, 208, 208)
QUERY = (200, 40, 40)


@dataclass(frozen=True)
class Tile:
    """One thumbnail.

    Attributes:
        path: the picture; None: unknown or gone, drawn as a grey field.
        lines: the label's lines, top to bottom; each is cut to the tile's width.
        is_query: framed, to distinguish it from the matches.
        region: the part that was searched by, drawn as a frame.
    """

    path: Path | None
    lines: tuple[str, ...]
    is_query: bool = False
    region: Region | None = None


def contact_sheet(tiles: Sequence[Tile], *, columns: int = 5) -> Image.Image:
    """Returns the tiles as one RGB picture, row by row.

    Args:
        tiles: at least one.
        columns: tiles in a full row.
    """
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    labels = max(len(tile.lines) for tile in tiles)
    cell_width = THUMB_PX + MARGIN_PX
    cell_height = THUMB_PX + FRAME_PX + labels * LINE_PX + MARGIN_PX
    sheet = Image.new("RGB", (columns * cell_width + MARGIN_PX, rows * cell_height + MARGIN_PX), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=TEXT_PX)
    for place, tile in enumerate(tiles):
        left = MARGIN_PX + place % columns * cell_width
        top = MARGIN_PX + place // columns * cell_height
        thumb = _thumbnail(tile)
        if thumb is None:
            pen.rectangle((left, top, left + THUMB_PX - 1, top + THUMB_PX - 1), fill=FAINT)
        else:
            sheet.paste(thumb, (left + (THUMB_PX - thumb.width) // 2, top + (THUMB_PX - thumb.height) // 2))
        if tile.is_query:
            frame = (left - FRAME_PX, top - FRAME_PX, left + THUMB_PX + FRAME_PX - 1, top + THUMB_PX + FRAME_PX - 1)
            pen.rectangle(frame, outline=QUERY, width=3)
        for number, line in enumerate(tile.lines):
            pen.text(
                (left, top + THUMB_PX + FRAME_PX + number * LINE_PX), _cut(printable(line), font), fill=INK, font=font
            )
    return sheet


def _thumbnail(tile: Tile) -> Image.Image | None:
    """Returns the picture upright and small, with its region framed; None if it can't be read."""
    if tile.path is None:
        return None
    try:
        # Pillow warns above 90 million pixels and refuses above twice that: too much memory for a thumbnail.
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(tile.path) as picture,
        ):
            # Lets JPEG decode at a fraction of its size, several times faster; no effect on other formats.
            picture.draft("RGB", (2 * THUMB_PX, 2 * THUMB_PX))
            thumb = upright_rgb(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    thumb.thumbnail((THUMB_PX, THUMB_PX))
    if tile.region is not None:
        x_min, y_min, x_max, y_max = tile.region
        left, top = x_min * thumb.width, y_min * thumb.height
        right, bottom = x_max * thumb.width - 1, y_max * thumb.height - 1
        # A part narrower than a pixel still has one.
        ImageDraw.Draw(thumb).rectangle((left, top, max(left, right), max(top, bottom)), outline=QUERY, width=2)
    return thumb


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Returns the line, without its start if it is too long: the end of a path says most."""
    if font.getlength(line) <= THUMB_PX:
        return line
    start = 0
    while start < len(line) and font.getlength("…" + line[start:]) > THUMB_PX:
        start += 1
    return "…" + line[start:]
