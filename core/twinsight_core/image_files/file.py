"""What is known of an encoded picture before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SEGMENTS = 16_384
"""Segments or chunks of one file: a picture of 16 MiB in chunks of 1 KiB has as many, usual ones have dozens. Decoders
take up to ten microseconds for each."""


class Unreadable(ValueError):
    """The file is damaged, truncated, or made of far more pieces than a picture has."""


@dataclass(frozen=True)
class ImageFile:
    """An encoded picture.

    Attributes:
        data: the file, possibly reduced to what the pixels need.
        width: as claimed by the header, before turning it upright.
        height: likewise.
        orientation: EXIF orientation 1..8; 1 if there is none, or none that can be read.
        bytes_per_pixel: memory that decoding takes for each pixel, besides the pixels themselves.
        passes: how many passes over all pixels decoding takes.
        is_scalable: whether it can be decoded at a half, a quarter or an eighth of its size.
    """

    data: bytes
    width: int
    height: int
    orientation: int = 1
    bytes_per_pixel: float = 0.0
    passes: int = 1
    is_scalable: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height after turning it upright."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)
