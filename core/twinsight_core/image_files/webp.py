"""WebP: what its chunks claim. Its decoder reads no metadata unless asked, so the file is left as it is.

Source: RFC 9649, sections 2.5 to 2.7 (VP8, VP8L and VP8X chunks).
"""

from __future__ import annotations

from collections.abc import Iterator

from twinsight_core.image_files.exif import Orientation
from twinsight_core.image_files.file import MAX_SEGMENTS, ImageFile, Unreadable

_EXIF_FLAG, _XMP_FLAG = 0x08, 0x04
_LOSSY_BYTES, _LOSSLESS_BYTES = 12, 16
"""For each pixel: two canvases of the animation decoder, which decodes still pictures too, and a copy; a lossless
picture is decoded beside them. Measured with Pillow 13 and libwebp 1.6."""


def read(encoded: bytes) -> ImageFile:
    """Walks a WebP file; see `twinsight_core.image_files`."""
    chunks = _chunks(encoded)
    kind, start, _ = next(chunks, (b"", 0, 0))
    head = encoded[start : start + 10]
    if len(head) < 10:
        raise Unreadable("there is no header")
    orientation = Orientation()
    lossless = kind == b"VP8L"
    if kind == b"VP8X":
        width, height = 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
        for inner, start, end in chunks:
            # A frame of an animation contains a picture of either kind.
            lossless |= inner in {b"VP8L", b"ANMF"}
            if inner == b"EXIF" and head[0] & _EXIF_FLAG:
                orientation.see_exif(encoded[start:end])
            elif inner == b"XMP " and head[0] & _XMP_FLAG:
                orientation.see_xmp(encoded[start:end])
    elif lossless:
        bits = int.from_bytes(head[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(head[n : n + 2], "little") & 0x3FFF for n in (6, 8))
    each = _LOSSLESS_BYTES if lossless else _LOSSY_BYTES
    return ImageFile(encoded, width, height, orientation.value, bytes_per_pixel=each)


def _chunks(encoded: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the kind of each chunk, and where its content starts and ends."""
    place = 12
    for _ in range(MAX_SEGMENTS):
        if place + 8 > len(encoded):
            return
        start = place + 8
        end = start + int.from_bytes(encoded[place + 4 : start], "little")
        yield encoded[place : place + 4], start, min(end, len(encoded))
        place = end + (end - start) % 2
    raise Unreadable("there are too many chunks")
