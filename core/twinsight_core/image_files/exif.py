"""Which way is up: the only part of a picture's metadata that is used here.

Source: CIPA DC-008 (EXIF) and TIFF 6.0, section 2; XMP's `tiff:Orientation` stands in where EXIF has none.
"""

from __future__ import annotations

import re
import struct

_TAG = 0x0112
_MOST_ENTRIES = 1024
"""Of a directory; cameras write dozens, and the tag is among the first, since entries are sorted by tag."""
_TYPES = {1: "B", 3: "H", 4: "I"}
"""TIFF type -> `struct` code. Specified is 3 (SHORT)."""
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_MOST_XMP = 1 << 20


class Orientation:
    """The orientation of a file: of its first EXIF block, or else of its first XMP packet.

    Later ones are ignored: a file may have a thousand, each of which takes a fraction of a millisecond.
    """

    def __init__(self) -> None:
        self._exif: int | None = None  # 0: a block without one
        self._xmp: int | None = None

    def see_exif(self, block: bytes | memoryview) -> None:
        """Takes note of an EXIF block."""
        if self._exif is None:
            self._exif = orientation_of_exif(bytes(block)) or 0

    def see_xmp(self, packet: bytes | memoryview) -> None:
        """Takes note of an XMP packet."""
        if self._xmp is None:
            self._xmp = orientation_of_xmp(bytes(packet)) or 0

    @property
    def value(self) -> int:
        """1..8; 1 if there is none, or none that can be read."""
        return self._exif or self._xmp or 1


def orientation_of_exif(block: bytes) -> int | None:
    """Returns the orientation 1..8 in an EXIF block, with or without its `Exif` header; None if none can be read."""
    tiff = memoryview(block)[6 if block.startswith(b"Exif\0\0") else 0 :]
    order = {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]))
    found = None
    try:
        if order is None or struct.unpack_from(order + "H", tiff, 2)[0] != 42:
            return None
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(min(count, _MOST_ENTRIES)):
            place = start + 2 + 12 * entry
            tag, kind, values = struct.unpack_from(order + "HHI", tiff, place)
            if tag == _TAG:
                code = _TYPES.get(kind) if values == 1 else None
                found = struct.unpack_from(order + code, tiff, place + 8)[0] if code else None
    except struct.error:  # the directory is truncated
        pass
    return found if found is not None and 1 <= found <= 8 else None


def orientation_of_xmp(packet: bytes) -> int | None:
    """Returns the orientation 1..8 in an XMP packet; None if it has none."""
    found = _IN_XMP.search(packet, 0, _MOST_XMP)
    return int(found[1]) if found else None
