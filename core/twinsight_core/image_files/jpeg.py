"""JPEG: segments up to the first scan, and the number of scans if there are several.

Source: ITU-T T.81, annex B (markers); T.871 (JFIF); the Adobe segment as libjpeg reads it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from twinsight_core.image_files.exif import Orientation
from twinsight_core.image_files.file import MAX_SEGMENTS, ImageFile, Unreadable

SIGNATURE = b"\xff\xd8\xff"

_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_RESTARTS = range(0xD0, 0xD8)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_TABLES = {0xC4, 0xCC, 0xDB, 0xDD}  # DHT, DAC, DQT, DRI
_JFIF, _ADOBE = (0xE0, b"JFIF\0"), (0xEE, b"Adobe")
_EXIF, _XMP = (0xE1, b"Exif\0\0"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0")

# Neither has a repetition: both are linear on whatever they are given.
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)

_COEFFICIENT_BYTES = 2


class _Frame(NamedTuple):
    """A frame header.

    Attributes:
        progressive: whether its scans refine one another.
        width: columns.
        height: rows.
        components: how many.
        samples_per_pixel: of all components together: 3 without subsampling, 1.5 at 4:2:0.
    """

    progressive: bool
    width: int
    height: int
    components: int
    samples_per_pixel: float


def read(encoded: bytes) -> ImageFile:
    """Walks a JPEG file; see `twinsight_core.image_files`."""
    view = memoryview(encoded)
    kept: list[memoryview] = [view[:2]]
    frame: _Frame | None = None
    orientation = Orientation()
    dropped = False
    place = 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(encoded, place)
        if not found:
            break
        dropped |= found.start() > place  # fill bytes, or bytes that decoders ignore
        start, marker = found.start(), encoded[found.start() + 1]
        if marker == _EOI:
            break
        if marker in _RESTARTS or marker in {_SOI, _TEM}:
            dropped, place = True, found.end()
            continue
        place = _end(encoded, found.end())
        body = view[start + 4 : place]
        if marker == _SOS:
            if frame is None:
                break
            data, passes = _scans(encoded, start, place, frame)
            return ImageFile(
                b"".join([*kept, data]) if dropped or len(data) < len(encoded) - start else encoded,
                frame.width,
                frame.height,
                orientation.value,
                bytes_per_pixel=frame.samples_per_pixel * _COEFFICIENT_BYTES if passes else 0.0,
                passes=passes or 1,
                is_scalable=True,
            )
        if marker in _FRAMES:
            if frame:
                break
            frame = _frame(marker, body)
        if marker in _FRAMES or marker in _TABLES or _is(marker, body, _JFIF) or _is(marker, body, _ADOBE):
            kept.append(view[start:place])
            continue
        dropped = True
        if _is(marker, body, _EXIF):
            orientation.see_exif(body)
        elif _is(marker, body, _XMP):
            orientation.see_xmp(body)
    raise Unreadable("no scan follows the header")


def _is(marker: int, body: memoryview, kind: tuple[int, bytes]) -> bool:
    return marker == kind[0] and body[: len(kind[1])] == kind[1]


def _end(encoded: bytes, place: int) -> int:
    """Returns the end of the segment whose length is at `place`."""
    end = place + int.from_bytes(encoded[place : place + 2], "big")
    if not place + 2 <= end <= len(encoded):
        raise Unreadable("a segment is truncated")
    return end


def _frame(marker: int, body: memoryview) -> _Frame:
    components = body[5] if len(body) > 5 else 0
    if not 1 <= components <= 4 or len(body) < 6 + 3 * components:
        raise Unreadable("the frame header is damaged")
    factors = [body[7 + 3 * number] for number in range(components)]
    across, down = [factor >> 4 for factor in factors], [factor & 15 for factor in factors]
    if not (min(across) and min(down)):
        raise Unreadable("the frame header is damaged")
    samples = sum(x * y for x, y in zip(across, down, strict=True)) / (max(across) * max(down))
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    return _Frame(marker in _PROGRESSIVE, width, height, components, samples)


def _scans(encoded: bytes, start: int, place: int, frame: _Frame) -> tuple[memoryview, int]:
    """Returns the scans, and how many there are; 0 if everything is in one, which is decoded as it is read.

    Args:
        encoded: the file.
        start: where the first scan's header starts.
        place: where it ends.
        frame: the frame's header.
    """
    if not frame.progressive and encoded[start + 4] == frame.components:
        return memoryview(encoded)[start:], 0
    scans = 1
    for _ in range(MAX_SEGMENTS):
        found = _MARKER_IN_SCAN.search(encoded, place)
        if not found:
            return memoryview(encoded)[start:], scans
        place, marker = found.end(), encoded[found.start() + 1]
        if marker == _EOI:
            return memoryview(encoded)[start:place], scans
        if marker not in {_SOI, _TEM}:
            place = _end(encoded, place)
            scans += marker == _SOS
    raise Unreadable("there are too many scans")
