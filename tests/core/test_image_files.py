"""What a file carries besides its picture, and what it claims, costs nothing."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow

from twinsight_core.errors import InvalidImage
from twinsight_core.image_files import exif
from twinsight_core.images import Limits, Preprocessing, Region, decode

SMALL = Preprocessing(height_px=8, width_px=8)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(picture: Pillow.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def quadrants(width: int = 64, height: int = 64) -> Pillow.Image:
    """Red top left, green top right, blue bottom left, white bottom right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Pillow.fromarray(pixels)


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """Colours of the four corners, rounded to 0 or 255."""
    ends = (pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1])
    return [tuple(int(round(c / 255) * 255) for c in colour) for colour in ends]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def exif_with_entries(count: int) -> bytes:
    """A directory each of whose entries refers to all of the block."""
    entries = b"".join(struct.pack("<HHII", 0x8000 + n, 7, 12 * count, 10) for n in range(count))
    return struct.pack("<2sHIH", b"II", 42, 8, count) + entries + bytes(64)


def with_metadata(metadata: bytes) -> tuple[bytes, bytes]:
    """A JPEG and a PNG that carry it in each place there is."""
    jpeg, png = encoded(quadrants(), "JPEG", quality=95), encoded(quadrants())
    some = metadata[:60_000]
    segments = b"".join(
        marker + struct.pack(">H", len(some) + len(name) + 2) + name + some
        for marker, name in (
            (b"\xff\xe1", b"Exif\0\0"),
            (b"\xff\xe2", b"ICC_PROFILE\0\1\1"),
            (b"\xff\xe2", b"MPF\0"),
            (b"\xff\xed", b"Photoshop 3.0\0"),
            (b"\xff\xfe", b""),
        )
    )
    bomb = zlib.compress(bytes(10_000_000))
    chunks = b"".join(
        png_chunk(kind, body)
        for kind, body in (
            (b"eXIf", metadata),
            (b"iCCP", b"name\0\0" + bomb),
            (b"zTXt", b"key\0\0" + bomb),
            (b"iTXt", b"key\0\1\0\0\0" + bomb),
            (b"acTL", struct.pack(">II", 1000, 0)),
        )
    )
    return jpeg[:2] + segments + jpeg[2:], png[:33] + chunks + png[33:]


def test_metadata_never_reaches_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    right = Pillow.open

    def spy(file: io.BytesIO, *, formats: tuple[str, ...]) -> Pillow.Image:
        seen.append(file.getvalue())
        return right(file, formats=formats)

    monkeypatch.setattr(Pillow, "open", spy)
    for data in with_metadata(exif_with_entries(4000)):
        assert corners(decode(data, SMALL)) == [RED, GREEN, BLUE, WHITE]
        for name in (b"Exif", b"eXIf", b"ICC", b"iCCP", b"MPF", b"Photoshop", b"zTXt", b"iTXt", b"acTL"):
            assert name in data or name not in seen[-1]
            assert name not in seen[-1]
        assert len(seen[-1]) < 10_000


@pytest.mark.parametrize(
    "data",
    [
        encoded(quadrants())[:33] + png_chunk(b"teXt", b"") * 20_000 + encoded(quadrants())[33:],
        encoded(quadrants())[:33] + png_chunk(b"IDAT", b"") * 20_000 + encoded(quadrants())[33:],
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * 20_000 + encoded(quadrants(), "JPEG")[2:],
        b"RIFF" + bytes(4) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(10) + (b"ANMF" + bytes(4)) * 20_000,
    ],
    ids=["png", "pixels of a png", "jpeg", "webp"],
)
def test_a_file_of_very_many_pieces_is_refused_undecoded(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Pillow, "open")
    with pytest.raises(InvalidImage, match="damaged"):
        decode(data, SMALL)


def with_scans(side: int, count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: a few bytes each, and each goes over all pixels."""
    data = encoded(Pillow.new("L", (side, side)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * count + data[-2:]


def test_a_jpeg_of_very_many_scans_is_refused_undecoded() -> None:
    with pytest.raises(InvalidImage, match=r"2000x2000 in 40\d scans; the limit is 1,000 megapixels") as caught:
        decode(with_scans(2000, 400), SMALL)
    assert caught.value.reason == "IMAGE_TOO_LARGE"
    assert decode(with_scans(200, 400), SMALL).shape == (8, 8, 3)
    hidden = with_scans(2000, 1)
    place = hidden.rindex(b"\xff\xda")
    scans = hidden[place:-2] * 400
    comment = b"\xff\xfe\x00\x06\xff\xd9\xff\xd9"  # an end that is none
    with pytest.raises(InvalidImage, match="scans"):
        decode(hidden[:place] + comment + scans + b"\xff\xd9", SMALL)


def test_a_picture_that_would_take_too_much_memory_is_refused_undecoded() -> None:
    limits = Limits(max_memory_bytes=1_000_000)
    webp = encoded(Pillow.new("RGB", (400, 300)), "WEBP")
    with pytest.raises(InvalidImage, match=r"400x300 and would take 2 MB to decode; the limit is 1 MB") as caught:
        decode(webp, SMALL, limits=limits)
    assert caught.value.reason == "IMAGE_TOO_LARGE"
    jpeg = encoded(Pillow.new("RGB", (800, 800)), "JPEG")
    assert decode(jpeg, SMALL, limits=limits).shape == (8, 8, 3)  # an eighth of its size is enough
    with pytest.raises(InvalidImage, match="3 MB"):
        decode(jpeg, SMALL, limits=limits, region=Region(0, 0, 0.01, 0.01))
    with pytest.raises(InvalidImage, match="4 MB"):
        decode(encoded(Pillow.new("RGB", (800, 800)), "JPEG", progressive=True, subsampling=0), SMALL, limits=limits)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_xmp_says_which_way_is_up_where_exif_does_not(kind: str) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    if kind == "PNG":
        whole = encoded(quadrants())
        data = whole[:33] + png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + whole[33:]
    else:
        data = encoded(quadrants(), kind, xmp=xmp)
    assert corners(decode(data, SMALL)) == [WHITE, BLUE, GREEN, RED]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_of_many_exif_blocks_the_first_is_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[bytes] = []

    def spy(block: bytes) -> None:
        looked_at.append(block)

    monkeypatch.setattr(exif, "orientation_of_exif", spy)
    block = exif_with_entries(1024)
    if kind == "PNG":
        whole = encoded(quadrants())
        data = whole[:33] + png_chunk(b"eXIf", block) * 50 + whole[33:]
    elif kind == "JPEG":
        whole = encoded(quadrants(), "JPEG")
        segment = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
        data = whole[:2] + segment * 50 + whole[2:]
    else:
        whole = encoded(quadrants(), "WEBP", exif=b"Exif\0\0" + block)
        chunk = b"EXIF" + struct.pack("<I", len(block)) + block
        data = whole + chunk * 50
    assert decode(data, SMALL).shape == (8, 8, 3)
    assert len({bytes(one) for one in looked_at}) == 1
    assert len(looked_at) <= 2  # once in checking, once in decoding
