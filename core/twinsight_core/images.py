"""Encoded bytes or raw pixels in, uint8 at a model's size out. Bad bytes stop here.

1. The size in bytes and the format's signature are checked: JPEG, PNG and WebP are let in, nothing else.
2. The picture's dimensions are read from its header and checked before anything is decoded.
3. The first frame is decoded; a JPEG by its scaled inverse DCT, to no more than what the model needs.
4. EXIF orientation is applied; palettes, 16 bits and CMYK become 8-bit RGB; alpha is laid over white.
5. The region is cropped and resized in one step. Colour profiles are ignored.

What these steps do to pixels is part of a model's identity: `Preprocessing.version` rises when they change.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image as Pillow

from twinsight_core.errors import InvalidImage, InvalidInput

PREPROCESSING_VERSION = 1
"""Version of the steps above; a package made with another is refused."""

FORMATS = ("JPEG", "PNG", "WEBP")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright (CIPA DC-008, tag 274)."""

# Every size is checked here against the caller's limits; Pillow's own limit knows nothing of them.
Pillow.MAX_IMAGE_PIXELS = None

_PAD_GREY = (128, 128, 128)


@dataclass(frozen=True)
class Limits:
    """What is refused unread.

    Attributes:
        max_bytes: size of an encoded picture.
        max_pixels: width x height, as the header claims it.
    """

    max_bytes: int = 16 * 1024 * 1024
    max_pixels: int = 40_000_000


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a network's input; part of the model's identity.

    Attributes:
        height_px: rows of the input.
        width_px: columns of the input.
        fit: "stretch" ignores the aspect ratio; "crop" keeps it and the centre; "pad" keeps it and all, over grey.
        version: version of the decoding steps.
    """

    height_px: int
    width_px: int
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    version: int = PREPROCESSING_VERSION


@dataclass(frozen=True)
class Region:
    """A rectangle in fractions of the upright picture; (0, 0) is the top left corner.

    Raises:
        InvalidInput: not 0 <= min < max <= 1 on both axes.
    """

    x_min: float = 0.0
    y_min: float = 0.0
    x_max: float = 1.0
    y_max: float = 1.0

    def __post_init__(self) -> None:
        # Written so that NaN fails.
        if not (0 <= self.x_min < self.x_max <= 1 and 0 <= self.y_min < self.y_max <= 1):
            raise InvalidInput(
                f"`region` (={self.x_min:g}, {self.y_min:g}, {self.x_max:g}, {self.y_max:g}) must have "
                "0 <= x_min < x_max <= 1 and 0 <= y_min < y_max <= 1.",
                reason="REGION_INVALID",
                field="region",
            )


WHOLE = Region()
DEFAULT_LIMITS = Limits()


def decode(
    encoded: bytes, to: Preprocessing, *, limits: Limits = DEFAULT_LIMITS, region: Region | None = None
) -> np.ndarray:
    """Decodes a picture to a model's input. Safe to call from several threads; releases the GIL while it works.

    Args:
        encoded: a whole JPEG, PNG or WebP file.
        to: size and fit.
        limits: what is refused unread.
        region: the part to look at, of the upright picture; None: all.

    Returns:
        [height, width, 3] uint8, RGB, 0..255.

    Raises:
        InvalidImage: IMAGE_TOO_LARGE, IMAGE_FORMAT_UNSUPPORTED or IMAGE_UNREADABLE, field `encoded`.
    """
    part = region or WHOLE
    _check_bytes(encoded, limits)
    try:
        with Pillow.open(io.BytesIO(encoded), formats=FORMATS) as picture:
            _check_pixels(*picture.size, limits)
            orientation = _orientation(picture)
            picture.draft("RGB", _needed_size(picture.size, orientation, part, to))
            picture.load()
            upright = picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture
            return _resize(_to_rgb(upright), part, to)
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever a broken file trips them over
        raise InvalidImage(
            "The picture can't be decoded: it is damaged or cut off.", reason="IMAGE_UNREADABLE", field="encoded"
        ) from error


def from_pixels(
    pixels: np.ndarray, to: Preprocessing, *, limits: Limits = DEFAULT_LIMITS, region: Region | None = None
) -> np.ndarray:
    """Crops and resizes pixels to a model's input, as `decode` does after decoding.

    Args:
        pixels: [height, width, 3] uint8, RGB, 0..255, upright.
        to: size and fit.
        limits: what is refused.
        region: the part to look at; None: all.

    Returns:
        [height, width, 3] uint8, RGB, 0..255.

    Raises:
        InvalidImage: IMAGE_TOO_LARGE or IMAGE_UNREADABLE (no pixels), field `raw`.
    """
    height, width = pixels.shape[:2]
    if height < 1 or width < 1:
        raise InvalidImage(
            f"`raw` is {width}x{height}; it must have at least one pixel.", reason="IMAGE_UNREADABLE", field="raw"
        )
    _check_pixels(width, height, limits, field="raw")
    return _resize(Pillow.fromarray(np.ascontiguousarray(pixels)), region or WHOLE, to)


def _check_bytes(encoded: bytes, limits: Limits) -> None:
    if not encoded:
        raise InvalidImage("The picture is empty (0 bytes).", reason="IMAGE_UNREADABLE", field="encoded")
    if len(encoded) > limits.max_bytes:
        raise InvalidImage(
            f"The picture has {len(encoded):,} bytes; at most {limits.max_bytes:,} are accepted.",
            reason="IMAGE_TOO_LARGE",
            field="encoded",
        )
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        # Pillow allocates a WebP's whole canvas when it opens the file: the size is read before that.
        _check_pixels(*_webp_size(encoded), limits)
    elif not encoded.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        raise InvalidImage(
            "The bytes are not a JPEG, PNG or WebP file.", reason="IMAGE_FORMAT_UNSUPPORTED", field="encoded"
        )


def _webp_size(encoded: bytes) -> tuple[int, int]:
    """Width and height that a WebP header claims; (1, 1) where it is too short, which decoding then refuses.

    Source: RFC 9649, sections 2.5 to 2.7 (VP8, VP8L and VP8X chunks).
    """
    kind, head = encoded[12:16], encoded[20:30]
    if len(head) < 10:
        return 1, 1
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF


def _check_pixels(width: int, height: int, limits: Limits, *, field: str = "encoded") -> None:
    if width * height > limits.max_pixels:
        raise InvalidImage(
            f"The picture is {width}x{height} ({width * height / 1e6:.1f} megapixels); "
            f"at most {limits.max_pixels / 1e6:g} megapixels are decoded.",
            reason="IMAGE_TOO_LARGE",
            field=field,
        )


def _orientation(picture: Pillow.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or the EXIF block is damaged, as viewers do."""
    try:
        return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - a damaged EXIF block does not make good pixels bad
        return 1


def _needed_size(size: tuple[int, int], orientation: int, part: Region, to: Preprocessing) -> tuple[int, int]:
    """Smallest (width, height) of the stored picture whose region still has the input's pixels."""
    width, height = (
        math.ceil(to.width_px / (part.x_max - part.x_min)),
        math.ceil(to.height_px / (part.y_max - part.y_min)),
    )
    if orientation >= 5:
        width, height = height, width
    return min(width, size[0]), min(height, size[1])


def _to_rgb(picture: Pillow.Image) -> Pillow.Image:
    """8-bit RGB: 16-bit greys by their high byte (as Pillow reads 16-bit colour), alpha over white."""
    if picture.mode.startswith("I"):
        picture = Pillow.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    if picture.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        white = Pillow.new("RGBA", with_alpha.size, "white")
        return Pillow.alpha_composite(white, with_alpha).convert("RGB")
    return picture.convert("RGB")


def _resize(picture: Pillow.Image, part: Region, to: Preprocessing) -> np.ndarray:
    width, height = picture.size
    left, top, right, bottom = part.x_min * width, part.y_min * height, part.x_max * width, part.y_max * height
    scale_x, scale_y = to.width_px / (right - left), to.height_px / (bottom - top)
    target = (to.width_px, to.height_px)
    if to.fit == "crop":
        cut_x = (right - left) * (1 - scale_x / max(scale_x, scale_y)) / 2
        cut_y = (bottom - top) * (1 - scale_y / max(scale_x, scale_y)) / 2
        left, top, right, bottom = left + cut_x, top + cut_y, right - cut_x, bottom - cut_y
    elif to.fit == "pad":
        scale = min(scale_x, scale_y)
        target = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    # Pillow widens the bilinear support by the ratio, so this antialiases; the gap bounds its cost on large pictures.
    resized = picture.resize(target, Pillow.Resampling.BILINEAR, box=(left, top, right, bottom), reducing_gap=3.0)
    if target != (to.width_px, to.height_px):
        canvas = Pillow.new("RGB", (to.width_px, to.height_px), _PAD_GREY)
        canvas.paste(resized, ((to.width_px - target[0]) // 2, (to.height_px - target[1]) // 2))
        resized = canvas
    return np.array(resized)
