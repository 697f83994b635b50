"""Encoded bytes or raw pixels in, uint8 at a model's size out. Bad bytes stop here.

1. The size in bytes and the format's signature are checked: only JPEG, PNG and WebP are accepted.
2. The file's segments are walked (`image_files`): its dimensions and the cost of decoding are checked before anything
   is decoded, and metadata never reaches a decoder.
3. The first frame is decoded; a JPEG by its scaled inverse DCT, to no more than the model needs.
4. The region is processed band by band: EXIF orientation is applied; palettes, 16 bits and CMYK become 8-bit RGB; alpha
   is composited over white. There is never a second copy of a large picture.
5. The region is resized. Colour profiles are ignored.

What these steps do to pixels is part of a model's identity: `Preprocessing.version` is incremented when they change.
Version 1 treats everything that a scaled JPEG decodes to as the picture in step 5: if its sides are not multiples of
the scale, the last column and row are mostly padding, and the picture is squeezed by that much.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image as Pillow

from twinsight_core.errors import InvalidImage, InvalidInput
from twinsight_core.image_files import ImageFile, read
from twinsight_core.rgb import know_transparent_colour, to_rgb

PREPROCESSING_VERSION = 2
"""Version of the steps above for new packages."""
PREPROCESSING_VERSIONS = (1, 2)
"""Supported versions; a package made with another is rejected."""

_FORMATS = ("JPEG", "PNG", "WEBP")

_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""EXIF orientation -> transposition that turns the stored pixels upright (CIPA DC-008, tag 274)."""

# Every size is checked here against the caller's limits, which Pillow's own limit does not know.
Pillow.MAX_IMAGE_PIXELS = None

PAD_GREY = (128, 128, 128)
"""Colour of the padding beside a picture, RGB."""
REDUCING_GAP = 3.0
"""Before the filter, whole blocks are averaged down to this many times the wanted size: Pillow's `reducing_gap`."""
_BAND_PIXELS = 1 << 20
"""Pixels turned, flattened and reduced at once: 4 MiB per copy."""

_BYTES_PER_PIXEL = 4
"""Of a decoded picture, whatever its mode: Pillow uses as many for most of them."""
_MOST_PIXELS_OVER_ALL_PASSES = 1_000_000_000
"""A pass over 40 megapixels of a JPEG takes 20 to 40 ms, however few bytes the pass has in the file; usual progressive
JPEGs have about ten."""

_PIXEL_NS, _SCALED_PIXEL_NS, _PASS_NS = 20, 5, 1
"""About what a pixel takes on two cores of an AMD EPYC: in a PNG or WebP, in a JPEG scaled while it is decoded, and in
each pass over it."""
_SLOW_NS = 100_000_000


@dataclass(frozen=True)
class Limits:
    """Limits above which a picture is rejected before it is decoded.

    Attributes:
        max_bytes: size of an encoded picture.
        max_pixels: width x height, as claimed by the header.
        max_memory_bytes: memory that decoding takes, estimated from the header.
    """

    max_bytes: int = 16 * 1024 * 1024
    max_pixels: int = 40_000_000
    max_memory_bytes: int = 300_000_000


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a network's input; part of the model's identity.

    Attributes:
        height_px: rows of the input.
        width_px: columns of the input.
        fit: "stretch" ignores the aspect ratio; "crop" keeps it and the centre; "pad" keeps it and everything, on grey.
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
                f"`region` (={self.x_min:.9g}, {self.y_min:.9g}, {self.x_max:.9g}, {self.y_max:.9g}) must have "
                "0 <= x_min < x_max <= 1 and 0 <= y_min < y_max <= 1.",
                reason="REGION_INVALID",
                field="region",
            )


WHOLE = Region()
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An encoded picture that may be decoded, but is not yet.

    Attributes:
        file: what it claims, and all of its bytes: no second, shorter copy is held until decoding.
        is_whole: whether decoders may see all of it.
        needed: smallest size, (width, height), that it may be decoded to.
        region: the part to look at.
        to: size and fit.
    """

    file: ImageFile
    is_whole: bool
    needed: tuple[int, int]
    region: Region
    to: Preprocessing

    @property
    def is_slow(self) -> bool:
        """Whether decoding it is expected to occupy a core for over a tenth of a second."""
        nanoseconds = (_SCALED_PIXEL_NS if self.file.is_scalable else _PIXEL_NS) + self.file.passes * _PASS_NS
        return self.file.width * self.file.height * nanoseconds > _SLOW_NS

    def decode(self) -> np.ndarray:
        """Decodes it. Safe to call from several threads; releases the GIL while it works.

        Returns:
            [height, width, 3] uint8, RGB, 0..255.

        Raises:
            InvalidImage: IMAGE_UNREADABLE, field `encoded`.
        """
        with _decoding_errors(), Pillow.open(io.BytesIO(self._visible()), formats=_FORMATS) as picture:
            if picture.size != (self.file.width, self.file.height):
                raise ValueError("the decoder sees another size than was checked")
            know_transparent_colour(picture)
            drafted = picture.draft("RGB", self.needed)
            picture.load()
            extent = drafted[1][2:] if drafted and self.to.version > 1 else None
            return _resize(_Upright(picture, self.file.orientation, extent), self.region, self.to)

    def _visible(self) -> bytes:
        """Returns the bytes that decoders see."""
        if self.is_whole:
            return self.file.data
        return _read(self.file.data).data


def check(
    encoded: bytes, to: Preprocessing, *, limits: Limits = DEFAULT_LIMITS, region: Region | None = None
) -> CheckedImage:
    """Checks a picture without decoding anything. Takes the arguments of `decode`.

    Raises:
        InvalidImage: IMAGE_TOO_LARGE, IMAGE_FORMAT_UNSUPPORTED or IMAGE_UNREADABLE, field `encoded`.
    """
    part = region or WHOLE
    _check_bytes(encoded, limits)
    with _decoding_errors():
        file = _read(encoded)
        _check_pixels(file.width, file.height, limits)
        needed = _needed_size(file, part, to)
        _check_cost(file, needed, limits)
        return CheckedImage(replace(file, data=encoded), file.data is encoded, needed, part, to)


def upright_size(encoded: bytes) -> tuple[int, int]:
    """Returns width and height in pixels of a picture as decoded and turned upright; reads only headers.

    Raises:
        InvalidImage: IMAGE_FORMAT_UNSUPPORTED or IMAGE_UNREADABLE, field `encoded`.
    """
    with _decoding_errors():
        return _read(encoded).upright_size


def decode(
    encoded: bytes, to: Preprocessing, *, limits: Limits = DEFAULT_LIMITS, region: Region | None = None
) -> np.ndarray:
    """Decodes a picture to a model's input. Safe to call from several threads; releases the GIL while it works.

    Args:
        encoded: a whole JPEG, PNG or WebP file.
        to: size and fit.
        limits: above which the picture is rejected unread.
        region: the part to use, of the upright picture; None for all.

    Returns:
        [height, width, 3] uint8, RGB, 0..255.

    Raises:
        InvalidImage: IMAGE_TOO_LARGE, IMAGE_FORMAT_UNSUPPORTED or IMAGE_UNREADABLE, field `encoded`.
    """
    return check(encoded, to, limits=limits, region=region).decode()


def from_pixels(
    pixels: np.ndarray, to: Preprocessing, *, limits: Limits = DEFAULT_LIMITS, region: Region | None = None
) -> np.ndarray:
    """Crops and resizes pixels to a model's input, as `decode` does after decoding.

    Args:
        pixels: [height, width, 3] uint8, RGB, 0..255, upright.
        to: size and fit.
        limits: above which the pixels are rejected.
        region: the part to use; None for all.

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
    return _resize(_Upright(Pillow.fromarray(np.ascontiguousarray(pixels))), region or WHOLE, to)


def _read(encoded: bytes) -> ImageFile:
    file = read(encoded)
    if file is None:
        raise InvalidImage(
            "The bytes are not a JPEG, PNG or WebP file.", reason="IMAGE_FORMAT_UNSUPPORTED", field="encoded"
        )
    return file


@contextmanager
def _decoding_errors() -> Iterator[None]:
    """Turns whatever error a broken file causes into the one that callers see."""
    try:
        yield
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:
        raise InvalidImage(
            "The picture can't be decoded: it is damaged or truncated.", reason="IMAGE_UNREADABLE", field="encoded"
        ) from error


def _check_bytes(encoded: bytes, limits: Limits) -> None:
    if not encoded:
        raise InvalidImage("The picture is empty (0 bytes).", reason="IMAGE_UNREADABLE", field="encoded")
    if len(encoded) > limits.max_bytes:
        raise InvalidImage(
            f"The picture has {len(encoded):,} bytes; the limit is {limits.max_bytes:,}.",
            reason="IMAGE_TOO_LARGE",
            field="encoded",
        )


def _check_pixels(width: int, height: int, limits: Limits, *, field: str = "encoded") -> None:
    if width * height > limits.max_pixels:
        raise InvalidImage(
            f"The picture is {width}x{height} ({width * height / 1e6:.6g} megapixels); "
            f"the limit is {limits.max_pixels / 1e6:g} megapixels.",
            reason="IMAGE_TOO_LARGE",
            field=field,
        )


def _check_cost(file: ImageFile, needed: tuple[int, int], limits: Limits) -> None:
    """Checks how much memory decoding takes, and how many passes over the pixels.

    Raises:
        InvalidImage: too much memory, or too many passes.
    """
    pixels = file.width * file.height
    # Like `draft`: by 1, 2, 4 or 8, so that no side is smaller than needed.
    scale = min(file.width // max(1, needed[0]), file.height // max(1, needed[1]), 8) if file.is_scalable else 1
    scale = 1 << max(0, scale.bit_length() - 1)
    memory = int(pixels * (file.bytes_per_pixel + _BYTES_PER_PIXEL / scale**2))
    if memory > limits.max_memory_bytes:
        raise InvalidImage(
            f"The picture is {file.width}x{file.height} and would take {memory / 1e6:,.0f} MB to decode; "
            f"the limit is {limits.max_memory_bytes / 1e6:,.0f} MB.",
            reason="IMAGE_TOO_LARGE",
            field="encoded",
        )
    if file.passes > 1 and pixels * file.passes > _MOST_PIXELS_OVER_ALL_PASSES:
        raise InvalidImage(
            f"The picture is {file.width}x{file.height} in {file.passes} scans; "
            f"the limit is {_MOST_PIXELS_OVER_ALL_PASSES / 1e6:,.0f} megapixels over all scans.",
            reason="IMAGE_TOO_LARGE",
            field="encoded",
        )


def _needed_size(file: ImageFile, part: Region, to: Preprocessing) -> tuple[int, int]:
    """Returns the smallest (width, height) of the stored picture whose region still has the input's pixels."""
    width, height = (
        math.ceil(to.width_px / (part.x_max - part.x_min)),
        math.ceil(to.height_px / (part.y_max - part.y_min)),
    )
    if file.orientation >= 5:
        width, height = height, width
    return min(width, file.width), min(height, file.height)


class _Upright:
    """A decoded picture as viewed: turned upright, RGB. Only the parts that are used are made, never the whole.

    Args:
        stored: the decoded picture.
        orientation: EXIF's.
        extent: (width, height) of the picture in `stored`, from its left and upper edge, if it does not fill it.

    Attributes:
        size: (width, height) of everything that was decoded, upright.
        box: the picture's place in it, (left, top, right, bottom).
    """

    def __init__(self, stored: Pillow.Image, orientation: int = 1, extent: tuple[float, float] | None = None) -> None:
        self._stored = stored
        self._orientation = orientation
        width, height = stored.size
        across, down = extent or stored.size
        if orientation >= 5:
            width, height, across, down = height, width, down, across
        self.size = width, height
        # The reverse of `cut`.
        left = width - across if orientation in {2, 3, 6, 7} else 0
        top = height - down if orientation in {3, 4, 7, 8} else 0
        self.box = left, top, left + across, top + down

    def cut(self, box: tuple[int, int, int, int]) -> Pillow.Image:
        """Returns the part in a box of (left, top, right, bottom) pixels."""
        left, top, right, bottom = box
        width, height = self.size
        # The transposition determines which edges swap: see `_UPRIGHT`.
        if self._orientation in {2, 3, 6, 7}:
            left, right = width - right, width - left
        if self._orientation in {3, 4, 7, 8}:
            top, bottom = height - bottom, height - top
        if self._orientation >= 5:
            left, top, right, bottom = top, left, bottom, right
        whole = (left, top, right, bottom) == (0, 0, *self._stored.size)
        part = to_rgb(self._stored if whole else self._stored.crop((left, top, right, bottom)))
        return part.transpose(_UPRIGHT[self._orientation]) if self._orientation in _UPRIGHT else part


def _resize(picture: _Upright, part: Region, to: Preprocessing) -> np.ndarray:
    x, y, x_end, y_end = picture.box
    width, height = x_end - x, y_end - y
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
    resized = _scaled(picture, (x + left, y + top, x + right, y + bottom), target)
    if target != (to.width_px, to.height_px):
        canvas = Pillow.new("RGB", (to.width_px, to.height_px), PAD_GREY)
        canvas.paste(resized, ((to.width_px - target[0]) // 2, (to.height_px - target[1]) // 2))
        resized = canvas
    return np.array(resized)


def _scaled(picture: _Upright, box: tuple[float, float, float, float], size: tuple[int, int]) -> Pillow.Image:
    """Returns the part in a box resized, to within 1 as `Image.resize` with a reducing gap would resize the whole.

    Pillow widens the bilinear support by the ratio, so this antialiases; averaging whole blocks first, down to
    `REDUCING_GAP` times the size, bounds its cost on large pictures. Blocks do not extend from one band into the next.
    The order of Pillow's two passes, and so how it rounds, depends on the size of what it is given.
    """
    left, top, right, bottom = box
    block_x = int((right - left) / size[0] / REDUCING_GAP) or 1
    block_y = int((bottom - top) / size[1] / REDUCING_GAP) or 1
    # The bilinear filter reaches half a pixel of the result further on each side, or one pixel of the picture. Blocks
    # start where Pillow starts them.
    scale_x, scale_y = (right - left) / size[0], (bottom - top) / size[1]
    alone = block_x == block_y == 1
    if alone and picture.size[0] * picture.size[1] <= _BAND_PIXELS:
        return picture.cut((0, 0, *picture.size)).resize(size, Pillow.Resampling.BILINEAR, box=box)
    if alone:
        # Pillow rounds a box to float32; do so before moving it, or pixels may differ by 1.
        left, top, right, bottom = (float(np.float32(edge)) for edge in box)
    reach_x, reach_y = (scale_x + 1, scale_y + 1) if alone else (scale_x / 2, scale_y / 2)
    x, y = max(0, int(left - reach_x)), max(0, int(top - reach_y))
    x_end, y_end = min(picture.size[0], math.ceil(right + reach_x)), min(picture.size[1], math.ceil(bottom + reach_y))
    if alone:
        seen = picture.cut((x, y, x_end, y_end))
    else:
        seen = Pillow.new("RGB", (math.ceil((x_end - x) / block_x), math.ceil((y_end - y) / block_y)))
        rows = block_y * max(1, _BAND_PIXELS // (block_y * (x_end - x)))
        for start in range(y, y_end, rows):
            band = picture.cut((x, start, x_end, min(y_end, start + rows)))
            seen.paste(band.reduce((block_x, block_y)), (0, (start - y) // block_y))
    within = ((left - x) / block_x, (top - y) / block_y, (right - x) / block_x, (bottom - y) / block_y)
    return seen.resize(size, Pillow.Resampling.BILINEAR, box=within)
