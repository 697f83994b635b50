"""Edits that people make to a picture before they pass it on."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageFilter

from twinsight_client.images import upright_rgb

Picture = Image.Image


def crop(picture: Picture) -> Picture:
    """Cuts 12 % off each side."""
    width, height = picture.size
    return picture.crop((round(0.12 * width), round(0.12 * height), round(0.88 * width), round(0.88 * height)))


def rotate(picture: Picture) -> Picture:
    """Rotates by 10 degrees and crops the empty corners."""
    turned = picture.rotate(10, Image.Resampling.BICUBIC)
    width, height = picture.size
    return turned.crop((round(0.1 * width), round(0.1 * height), round(0.9 * width), round(0.9 * height)))


def recolour(picture: Picture) -> Picture:
    """Halves the saturation, and raises brightness and contrast."""
    pale = ImageEnhance.Color(picture).enhance(0.5)
    return ImageEnhance.Contrast(ImageEnhance.Brightness(pale).enhance(1.25)).enhance(1.2)


def blur(picture: Picture) -> Picture:
    """Applies a Gaussian blur with a radius of 1 % of the longer side."""
    return picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 100))


def untouched(picture: Picture) -> Picture:
    """Returns the picture as it is, for re-encoding only."""
    return picture


EDITS: dict[str, tuple[Callable[[Picture], Picture], int]] = {
    "crop": (crop, 85),
    "rotate 10°": (rotate, 85),
    "JPEG quality 15": (untouched, 15),
    "colour": (recolour, 85),
    "blur": (blur, 85),
}
"""Name -> the edit, and the JPEG quality with which its result is saved."""


def edited(encoded: bytes, name: str) -> bytes:
    """Returns an edited copy, upright, as a JPEG file of at most 640 px.

    Args:
        encoded: a whole picture file.
        name: key of `EDITS`.
    """
    edit, quality = EDITS[name]
    with Image.open(io.BytesIO(encoded)) as picture:
        copy = upright_rgb(picture)  # as the server sees the file: 16-bit greys scaled, transparency over white
    copy.thumbnail((640, 640))
    out = io.BytesIO()
    edit(copy).save(out, "JPEG", quality=quality)
    return out.getvalue()
