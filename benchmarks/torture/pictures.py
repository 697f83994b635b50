"""Hostile pictures: JPEG, PNG and WebP files damaged where it hurts, each a function of its seed.

Damage knows the formats: header fields, the lengths of segments and chunks (with their checksums made right again, so
that it gets further than the first check), and whole bombs. One in five is random bytes in random places.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

_EDGES = (0, 1, 2, 3, 7, 8, 255, 256, 16_383, 16_384, 32_767, 65_535, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)


def hostile_picture(seed: int) -> bytes:
    """Returns the picture of a seed."""
    rng = random.Random(seed)
    kind = rng.choice(("JPEG", "PNG", "WEBP"))
    if rng.random() < 0.1:
        return rng.choice(_BOMBS)(rng)
    data = _good(kind, rng.randrange(4))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = _MUTATIONS[kind](data, rng) if rng.random() < 0.8 else _bytes(data, rng)
    return data


@lru_cache
def _good(kind: str, variant: int) -> bytes:
    pixels = np.random.default_rng(variant).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 1 + variant
    out = io.BytesIO()
    if kind == "JPEG":
        picture.convert(("RGB", "L", "CMYK", "RGB")[variant]).save(
            out, kind, progressive=variant % 2 == 1, exif=exif, icc_profile=bytes(300)
        )
    elif kind == "PNG":
        more = [picture.rotate(90)] if variant == 3 else []
        mode = ("RGB", "RGBA", "P", "RGBA")[variant]
        picture.convert(mode).save(out, kind, exif=exif, save_all=bool(more), append_images=more)
    else:
        more = [picture.rotate(180)] if variant == 3 else []
        picture.save(out, kind, lossless=variant == 1, exif=exif, save_all=bool(more), append_images=more)
    return out.getvalue()


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Cuts the file off, or changes, doubles or removes some of it."""
    if not data:
        return data
    place, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 64))
    some = data[place : place + length]
    way = rng.randrange(5)
    if way == 0:
        return data[:place]
    middle = (rng.randbytes(len(some)), some * 2, b"", rng.choice((b"\0", b"\xff")) * len(some))[way - 1]
    return data[:place] + middle + data[place + length :]


def _jpeg(data: bytes, rng: random.Random) -> bytes:
    """Changes one segment before the first scan."""
    starts, place = [], 2
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data) and data[place + 1] != 0xDA:
        starts.append(place)
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    if not starts:
        return _bytes(data, rng)
    start = rng.choice(starts)
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    match rng.randrange(5):
        case 0:  # its length
            return data[: start + 2] + struct.pack(">H", rng.choice(_EDGES) & 0xFFFF) + data[start + 4 :]
        case 1:  # one of its bytes
            at = rng.randrange(start + 4, max(start + 5, end))
            return data[:at] + bytes([rng.choice(_EDGES) & 0xFF]) + data[at + 1 :]
        case 2:  # again and again
            return data[:start] + data[start:end] * rng.choice((2, 50, 5000)) + data[end:]
        case 3:  # what it is
            return data[: start + 1] + bytes([rng.randrange(0xC0, 0xFF)]) + data[start + 2 :]
    return data[:start] + data[end:]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(data: bytes, rng: random.Random) -> bytes:
    """Changes one chunk; checksums are right afterwards, mostly."""
    chunks: list[tuple[bytes, bytes]] = []
    place = 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return _bytes(data, rng)
    number = rng.randrange(len(chunks))
    kind, body = chunks[number]
    match rng.randrange(5):
        case 0 if kind == b"IHDR" and len(body) == 13:
            size = (rng.choice(_EDGES), rng.choice(_EDGES))
            body = rng.choice((struct.pack(">II", *size) + body[8:], body[:8] + rng.randbytes(5)))
        case 1 if body:
            at = rng.randrange(len(body))
            body = body[:at] + rng.randbytes(1) + body[at + 1 :]
        case 2:
            kind = rng.choice((b"IDAT", b"fdAT", b"fcTL", b"acTL", b"tRNS", b"PLTE", b"IEND", b"eXIf", b"zTXt"))
        case 3:
            chunks[number:number] = [(kind, body)] * rng.choice((1, 30, 3000))
        case _:
            body = body[: rng.randrange(len(body) + 1)]
    chunks[number] = (kind, body)
    whole = data[:8] + b"".join(_chunk(*one) for one in chunks)
    return whole if rng.random() < 0.9 else whole[: -rng.randrange(1, 20)]


def _webp(data: bytes, rng: random.Random) -> bytes:
    """Changes a field of the header or of a chunk."""
    at = rng.choice((4, 12, 16, *range(20, min(60, max(21, len(data))), 2)))
    return data[:at] + struct.pack("<I", rng.choice(_EDGES))[: rng.choice((1, 2, 3, 4))] + data[at + 4 :]


def _png_bomb(rng: random.Random) -> bytes:
    """Up to 50 megapixels of nothing."""
    side = rng.choice((1, 4096, 6324, 7071))
    depth, colour = rng.choice(((8, 2), (8, 6), (16, 6), (16, 0), (8, 0)))
    return _blank_png(side, depth, colour, rng.randrange(5))


@lru_cache
def _blank_png(side: int, depth: int, colour: int, row_filter: int) -> bytes:
    row = bytes([row_filter]) + bytes(side * {0: 1, 2: 3, 6: 4}[colour] * depth // 8)
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _metadata_bomb(rng: random.Random) -> bytes:
    """Texts, profiles and EXIF that unpack to more, or refer to themselves, in a small picture."""
    data, packed = _good("PNG", 0), _packed_zeros(20_000_000)
    count = 60_000
    entries = b"".join(struct.pack("<HHII", n, 7, 12 * count, 10) for n in range(count))
    kind, body = rng.choice(
        (
            (b"zTXt", b"key\0\0" + packed),
            (b"iCCP", b"name\0\0" + packed),
            (b"iTXt", b"key\0\1\0\0\0" + packed),
            (b"eXIf", struct.pack("<2sHIH", b"II", 42, 8, count) + entries + bytes(64)),
        )
    )
    return data[:33] + _chunk(kind, body) + data[33:]


@lru_cache
def _packed_zeros(count: int) -> bytes:
    return zlib.compress(bytes(count))


def _segment_bomb(rng: random.Random) -> bytes:
    """Millions of empty segments or chunks, or fill bytes."""
    if rng.random() < 0.3:
        data = _good("PNG", 0)
        return data[:33] + _chunk(rng.choice((b"IDAT", b"teXt")), b"") * 1_000_000 + data[33:]
    data = _good("JPEG", 0)
    return data[:2] + rng.choice((b"\xff", b"\xff\xfe\x00\x02", b"\xff\xd8", b"\0")) * 3_000_000 + data[2:]


def _canvas_bomb(rng: random.Random) -> bytes:
    """A WebP of one colour, or that only claims to be large."""
    if rng.random() < 0.5:
        return b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\0" * 2 + _good("WEBP", 0)[12:]
    return _blank_webp(rng.choice((3800, 4200)))


@lru_cache
def _blank_webp(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA", (side, side)).save(out, "WEBP", lossless=True, method=0, quality=0)
    return out.getvalue()


def _scan_bomb(rng: random.Random) -> bytes:
    """A progressive JPEG of many scans that cost a few bytes each."""
    data = _blank_jpeg(rng.choice((500, 3000)))
    scan = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + scan * rng.choice((50, 1000)) + data[-2:]


@lru_cache
def _blank_jpeg(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (side, side)).save(out, "JPEG", progressive=True)
    return out.getvalue()


_Mutation = Callable[[bytes, random.Random], bytes]
_MUTATIONS: dict[str, _Mutation] = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}
_BOMBS = (_png_bomb, _metadata_bomb, _segment_bomb, _canvas_bomb, _scan_bomb)
