"""Converts decoded pixels of any kind to RGB, compositing transparency over white."""

from __future__ import annotations

import numpy as np
from PIL import Image as Pillow
from PIL.ImageFile import ImageFile

# Pillow spreads greys of 2 and 4 bits over 8.
_STEP_OF_GREYS = {"L;2": 0x55, "L;4": 0x11}


def know_transparent_colour(picture: Pillow.Image) -> None:
    """Makes the one colour that a PNG calls transparent comparable with pixels: Pillow leaves it as the file has it.

    Of colours of 16 bits Pillow keeps the high bytes, and so does this.

    Args:
        picture: opened, its pixels not loaded yet.
    """
    key = picture.info.get("transparency")
    layout = picture.tile[0].args if isinstance(picture, ImageFile) and picture.tile else None
    if isinstance(key, int) and isinstance(layout, str) and (step := _STEP_OF_GREYS.get(layout)):
        picture.info["transparency"] = (key & (0xFF // step)) * step
    elif isinstance(key, tuple) and layout == "RGB;16B":
        picture.info["transparency"] = tuple(one >> 8 for one in key)


def to_rgb(picture: Pillow.Image) -> Pillow.Image:
    """Returns 8-bit RGB: 16-bit greys by their high byte (as Pillow reads 16-bit colour), alpha over white."""
    if picture.mode.startswith("I"):
        picture = _grey(picture)
    if picture.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        white = Pillow.new("RGBA", with_alpha.size, "white")
        return Pillow.alpha_composite(white, with_alpha).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _grey(picture: Pillow.Image) -> Pillow.Image:
    """Returns 8-bit greys, with alpha where one of the 16-bit ones is transparent."""
    greys = np.asarray(picture).astype(np.uint32)
    grey = Pillow.fromarray((greys >> 8).astype(np.uint8))
    key = picture.info.get("transparency")
    if key is None:
        return grey
    return Pillow.merge("LA", (grey, Pillow.fromarray(np.where(greys == key, 0, 0xFF).astype(np.uint8))))
