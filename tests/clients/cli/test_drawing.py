"""Pictures as `twinsight detect --out` and `twinsight search --sheet` draw them: as the server sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twinsight_client.cli.drawing import draw_detections
from twinsight_client.cli.sheet import MARGIN_PX, THUMB_PX, Tile, contact_sheet

pytestmark = pytest.mark.client

Seen = Callable[[Path], np.ndarray]


def _drawn(path: Path) -> np.ndarray:
    """The pixels, [height, width, 3] uint8, of a picture smaller than a thumbnail as it is drawn; so below."""
    return np.asarray(draw_detections(path, []))


def _on_a_sheet(path: Path) -> np.ndarray:
    sheet = np.asarray(contact_sheet([Tile(path, ())]))
    with Image.open(path) as picture:
        height, width = picture.size  # it lies on its side
    left, top = MARGIN_PX + (THUMB_PX - width) // 2, MARGIN_PX + (THUMB_PX - height) // 2
    return sheet[top : top + height, left : left + width]


SEEN = pytest.mark.parametrize("seen", [_drawn, _on_a_sheet], ids=["detect", "search"])
TURNED = Image.Exif()
TURNED[0x0112] = 6  # rows run down: turn by 90 degrees clockwise


@SEEN
def test_greys_of_sixteen_bits_are_drawn_by_their_high_byte_and_upright(tmp_path: Path, seen: Seen) -> None:
    greys = (np.arange(40 * 60, dtype=np.uint16) * 27).reshape(40, 60)
    Image.fromarray(greys).save(tmp_path / "deep.png", exif=TURNED)
    with Image.open(tmp_path / "deep.png") as picture:
        assert (picture.mode, picture.size) == ("I;16", (60, 40))
    high = np.rot90(greys, -1) >> 8
    assert np.array_equal(seen(tmp_path / "deep.png"), np.stack([high] * 3, axis=2))


@SEEN
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_drawn_over_white_and_upright(tmp_path: Path, seen: Seen, mode: str) -> None:
    picture = Image.new("RGBA", (60, 40), (90, 90, 90, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 30, 40))  # the left half, which is the upper one once it is turned
    picture.convert(mode).save(tmp_path / "clear.png", exif=TURNED)
    pixels = seen(tmp_path / "clear.png")
    assert pixels.shape == (60, 40, 3)
    assert (pixels[:30] == 255).all()
    assert (pixels[30:] == 90).all()
