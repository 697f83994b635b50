"""What of an encoded picture a decoder gets to see.

Decoders also read what pictures carry besides: profiles, comments, previews, EXIF. For none of that is there any use
here, and a few megabytes of it can keep a decoder busy for minutes or cost it gigabytes. So each format's file is first
walked segment by segment, in bounded time and memory:

1. `jpeg`, `png` and `webp` say what the header claims, what decoding will cost, and which way is up (`exif`).
2. They leave out what is not needed for the pixels.
3. `twinsight_core.images` checks the claims against its limits, and only then lets a decoder at what is left.
"""

from __future__ import annotations

from twinsight_core.image_files import jpeg, png, webp
from twinsight_core.image_files.file import ImageFile

__all__ = ["ImageFile", "read"]


def read(encoded: bytes) -> ImageFile | None:
    """Returns what a JPEG, PNG or WebP file claims and needs; None: it is of another format.

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
