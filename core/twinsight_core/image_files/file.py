"""What is found out about an encoded picture before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SEGMENTS = 16_384
"""Segments or chunks of one file: a picture of 16 MiB in chunks of 1 KiB has as many, usual ones have dozens. Decoders
take up to ten microseconds for each."""


class Unreadable(ValueError):
    """The file is damaged, cut off, or made of far more pieces than a picture has."""


@dataclass(frozen=True)
class ImageFile:
    """An encoded picture.

    Attributes:
        data: the file, of which only what pixels need may be left.
        width: as the header claims it, before it is turned upright.
        height: likewise.
        orientation: EXIF orientation 1..8; 1 where there is none, or none that can be read.
        bytes_per_pixel: memory that decoding takes for each pixel, the pixels themselves not among it.
        passes: how often decoding goes over all the pixels.
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
        """Width and height once it is turned upright."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)
