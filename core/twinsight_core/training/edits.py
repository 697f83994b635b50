"""Edited copies of pictures, as people make them: for calibration and for the score of copy detection.

Made with Pillow from the file's own bytes, at its own size, and written as a JPEG: nothing of it is shared with the
augmentation that training uses on the device.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageEnhance, ImageFilter

Picture = Pillow.Image
Edit = Callable[[Picture, np.random.Generator], Picture]


def _crop(picture: Picture, rng: np.random.Generator) -> Picture:
    """Keeps 60 to 85 % of the area, anywhere."""
    side = float(np.sqrt(rng.uniform(0.60, 0.85)))
    width, height = max(1, round(picture.width * side)), max(1, round(picture.height * side))
    left, top = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _rotate(picture: Picture, rng: np.random.Generator) -> Picture:
    """Turns by 5 to 15 degrees either way; the corners are black."""
    degrees = float(rng.uniform(5, 15) * rng.choice([-1, 1]))
    return picture.rotate(degrees, resample=Pillow.Resampling.BICUBIC)


def _turn(picture: Picture, rng: np.random.Generator) -> Picture:
    """Turns by 90 degrees either way."""
    turns = [Pillow.Transpose.ROTATE_90, Pillow.Transpose.ROTATE_270]
    return picture.transpose(turns[int(rng.integers(2))])


def _mirror(picture: Picture, rng: np.random.Generator) -> Picture:
    """Mirrors left and right."""
    del rng
    return picture.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)


def _jpeg(picture: Picture, rng: np.random.Generator) -> Picture:
    """Compresses at quality 10 to 30."""
    return _through_jpeg(picture, int(rng.integers(10, 31)))


def _colour(picture: Picture, rng: np.random.Generator) -> Picture:
    """Changes brightness, contrast and saturation by up to 40 % each."""
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhancer(picture).enhance(float(rng.uniform(0.6, 1.4)))
    return picture


def _blur(picture: Picture, rng: np.random.Generator) -> Picture:
    """Blurs with a radius of 0.7 to 1.5 % of the shorter side."""
    return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.007, 0.015)) * min(picture.size)))


def _grey(picture: Picture, rng: np.random.Generator) -> Picture:
    """Takes the colour away."""
    del rng
    return picture.convert("L").convert("RGB")


def _overlay(picture: Picture, rng: np.random.Generator) -> Picture:
    """Lays a bar of one colour, a fifth of the height, over the picture."""
    covered = picture.copy()
    top = int(rng.uniform(0.0, 0.8) * picture.height)
    colour = tuple(int(one) for one in rng.integers(0, 256, 3))
    ImageDraw.Draw(covered).rectangle((0, top, picture.width, top + picture.height // 5), fill=colour)
    return covered


def _combined(picture: Picture, rng: np.random.Generator) -> Picture:
    """Crops, changes colour, turns a little and compresses: one after the other."""
    for edit in (_crop, _colour, _rotate, _jpeg):
        picture = edit(picture, rng)
    return picture


EDITS: dict[str, Edit] = {
    "crop": _crop,
    "rotate": _rotate,
    "turn": _turn,
    "mirror": _mirror,
    "jpeg": _jpeg,
    "colour": _colour,
    "blur": _blur,
    "grey": _grey,
    "overlay": _overlay,
    "combined": _combined,
}
"""What is done to a picture, by name; strengths are each function's own."""


def edited_copy(encoded: bytes, file: str, *, kind: str) -> bytes:
    """Returns the bytes of an edited copy; equal arguments give equal bytes.

    Args:
        encoded: the picture's file.
        file: its path, which with `kind` seeds the edit.
        kind: name in `EDITS`.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{kind}:{file}".encode()).digest()[:8], "big"))
    with Pillow.open(io.BytesIO(encoded)) as picture:
        edited = EDITS[kind](picture.convert("RGB"), rng)
    return _as_jpeg(edited, 90)


def _as_jpeg(picture: Picture, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _through_jpeg(picture: Picture, quality: int) -> Picture:
    with Pillow.open(io.BytesIO(_as_jpeg(picture, quality))) as compressed:
        return compressed.convert("RGB")
