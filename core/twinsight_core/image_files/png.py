"""PNG: its chunks, of which the header, the palette and the pixels are kept.

Source: W3C Portable Network Graphics, third edition, sections 5 and 11.
"""

from __future__ import annotations

from twinsight_core.image_files.exif import Orientation
from twinsight_core.image_files.file import MAX_SEGMENTS, ImageFile, Unreadable

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_NEEDED = {b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_XMP = b"XML:com.adobe.xmp\0\0\0"  # not compressed, as XMP's specification requires


def read(encoded: bytes) -> ImageFile:
    """Walks a PNG file; see `twinsight_core.image_files`."""
    view = memoryview(encoded)
    if encoded[8:16] != b"\0\0\0\x0dIHDR" or len(encoded) < 33:
        raise Unreadable("there is no header")
    width, height = int.from_bytes(encoded[16:20], "big"), int.from_bytes(encoded[20:24], "big")
    kept: list[memoryview] = []
    since = 0  # what is needed and not kept yet starts here: neighbours are kept together
    place = 33
    orientation = Orientation()
    for _ in range(MAX_SEGMENTS):
        kind = encoded[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(encoded[place : place + 4], "big")
        # What a truncated file lacks at its end is for the decoder to report.
        if end > len(encoded) or kind == b"IEND":
            kept.append(view[since : min(end, len(encoded))])
            data = encoded if not since and end >= len(encoded) else b"".join(kept)
            return ImageFile(data, width, height, orientation.value)
        if kind not in _NEEDED:
            kept.append(view[since:place])
            since = end
            if kind == b"eXIf":
                orientation.see_exif(view[place + 8 : end - 4])
            elif kind == b"iTXt" and encoded[place + 8 : place + 8 + len(_XMP)] == _XMP:
                orientation.see_xmp(view[place + 8 : end - 4])
        place = end
    raise Unreadable("there are too many chunks")
