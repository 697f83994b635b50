"""Limits what a decoder sees of an encoded picture.

Decoders also read a picture's other contents: profiles, comments, previews, EXIF. None of that is used here, and a few
megabytes of it can keep a decoder busy for minutes or cost it gigabytes. So each format's file is first walked segment
by segment, in bounded time and memory:

1. `jpeg`, `png` and `webp` return what the header claims, what decoding will cost, and which way is up (`exif`).
2. They drop what the pixels do not need.
3. `twinsight_core.images` checks the claims against its limits, and only then passes the rest to a decoder.
"""

from __future__ import annotations

from twinsight_core.image_files import jpeg, png, webp
from twinsight_core.image_files.file import ImageFile

__all__ = ["ImageFile", "read"]


def read(encoded: bytes) -> ImageFile | None:
    """Returns what a JPEG, PNG or WebP file claims and needs; None for another format.

    Raises:
        Unreadable: the file's segments make no sense, or are far more than a picture has.
    """
    if encoded.startswith(jpeg.SIGNATURE):
        return jpeg.read(encoded)
    if encoded.startswith(png.SIGNATURE):
        return png.read(encoded)
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return webp.read(encoded)
    return None
