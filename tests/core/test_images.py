from __future__ import annotations

import io
import struct
import zlib
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from twinsight_core.errors import InvalidImage, InvalidInput, TwinsightError
from twinsight_core.images import Limits, Preprocessing, Region, check, decode, from_pixels, upright_size

SMALL = Preprocessing(height_px=8, width_px=8)


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


RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_each_format_gives_the_pixels_of_the_picture(kind: str) -> None:
    pixels = decode(encoded(quadrants(), kind), SMALL)
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    assert corners(pixels) == [RED, GREEN, BLUE, WHITE]


# Stored top left, top right, bottom left, bottom right -> what a viewer shows (CIPA DC-008).
@pytest.mark.parametrize(
    ("orientation", "shown"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (4, [BLUE, WHITE, RED, GREEN]),
        (5, [RED, BLUE, GREEN, WHITE]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),
    ],
)
def test_exif_orientation_is_applied(orientation: int, shown: list[tuple[int, ...]]) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    assert corners(decode(encoded(quadrants(96, 64), "JPEG", exif=exif, quality=95), SMALL)) == shown


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_is_that_of_what_is_seen(kind: str, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = encoded(quadrants(20, 10), kind, exif=exif)
    assert upright_size(data) == ((10, 20) if orientation >= 5 else (20, 10))


def test_what_does_not_turn_a_picture_does_not_turn_its_size() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n")
    data = encoded(quadrants(20, 10), pnginfo=text)
    assert Pillow.open(io.BytesIO(data)).getexif()[0x0112] == 6  # to Pillow it says which way is up
    assert upright_size(data) == (20, 10)
    assert corners(decode(data, SMALL)) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_leaves_the_picture_upright() -> None:
    data = encoded(quadrants(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert corners(decode(data, SMALL)) == [RED, GREEN, BLUE, WHITE]


def test_alpha_is_laid_over_white() -> None:
    clear = Pillow.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert decode(encoded(clear), SMALL).min() == 255


def test_half_transparent_red_over_white_is_pink() -> None:
    half = Pillow.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert decode(encoded(half), SMALL)[0, 0].tolist() == [255, 127, 127]


def test_a_palette_with_a_transparent_colour_is_laid_over_white() -> None:
    picture = Pillow.new("P", (4, 4), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    assert decode(encoded(picture, transparency=0), SMALL).min() == 255


def png(bits: int, colour_type: int, row: bytes, key: bytes) -> bytes:
    """A PNG of 8x8 equal rows, one colour of which is transparent."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * 8)
    parts = ((b"IHDR", header), (b"tRNS", key), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("bits", "row", "left", "key"),
    [
        # Rows of four pixels of one grey and four of another.
        (2, b"\x55\xaa", 1, 2),
        (4, b"\x33\x33\x44\x44", 3, 4),
        (4, b"\x33\x33\x44\x44", 3, 0xF4),  # bits beyond the depth mean nothing
        (8, b"\x0a" * 4 + b"\x0b" * 4, 10, 11),
        (16, b"\x0a\x01" * 4 + b"\x0a\x02" * 4, 0x0A01, 0x0A02),
    ],
)
def test_a_transparent_grey_of_any_depth_is_laid_over_white(bits: int, row: bytes, left: int, key: int) -> None:
    pixels = decode(png(bits, 0, row, struct.pack(">H", key)), SMALL)
    kept = left >> 8 if bits == 16 else left * 255 // (2**bits - 1)
    assert pixels[:, 0].tolist() == [[kept] * 3] * 8
    assert pixels[:, -1].tolist() == [[255] * 3] * 8


def test_a_transparent_colour_of_16_bits_is_laid_over_white() -> None:
    red, green = b"\xff\xff\0\0\0\0", b"\0\0\xff\xff\0\0"
    pixels = decode(png(16, 2, red * 4 + green * 4, red), SMALL)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, -1].tolist() == [0, 255, 0]


def test_a_palette_gives_its_colours() -> None:
    assert corners(decode(encoded(quadrants().convert("P")), SMALL)) == [RED, GREEN, BLUE, WHITE]


def test_a_16_bit_grey_keeps_its_high_byte() -> None:
    picture = Pillow.fromarray(np.full((4, 4), 0x80FF, np.uint16))
    assert decode(encoded(picture), SMALL)[0, 0].tolist() == [0x80] * 3


def test_a_1_bit_picture_is_black_and_white() -> None:
    assert decode(encoded(Pillow.new("1", (4, 4), 1)), SMALL).min() == 255


def test_cmyk_becomes_rgb() -> None:
    cyan = Pillow.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert corners(decode(encoded(cyan, "JPEG"), SMALL))[0] == (0, 255, 255)


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    first, second = Pillow.new("RGB", (16, 16), RED), Pillow.new("RGB", (16, 16), BLUE)
    data = encoded(first, kind, save_all=True, append_images=[second])
    assert corners(decode(data, SMALL))[0] == RED


def test_a_region_is_cut_out_of_the_upright_picture() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # shown: blue top left, red top right
    data = encoded(quadrants(), "JPEG", exif=exif, quality=95)
    assert set(corners(decode(data, SMALL, region=Region(0.5, 0, 1, 0.5)))) == {RED}


def test_scaled_decoding_keeps_the_detail_a_region_needs() -> None:
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    region = Region(0, 0, 8 / 1024, 8 / 1024)
    pixels = decode(encoded(Pillow.fromarray(stripes), "JPEG", quality=95), SMALL, region=region)
    assert pixels[:, ::2].min() > 200
    assert pixels[:, 1::2].max() < 55


def test_scaled_decoding_changes_pixels_little() -> None:
    rng = np.random.default_rng(0)
    smooth = Pillow.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (1600, 1200), Pillow.Resampling.BICUBIC
    )
    jpeg = encoded(smooth, "JPEG", quality=95)
    full = from_pixels(np.asarray(Pillow.open(io.BytesIO(jpeg)).convert("RGB")), Preprocessing(128, 128))
    assert np.abs(decode(jpeg, Preprocessing(128, 128)).astype(int) - full).mean() < 2


def test_raw_pixels_give_what_the_same_picture_encoded_gives() -> None:
    picture = quadrants(50, 30)
    assert np.array_equal(from_pixels(np.asarray(picture), SMALL), decode(encoded(picture), SMALL))


def test_crop_keeps_the_centre_at_its_aspect_ratio() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert from_pixels(wide, Preprocessing(10, 10, fit="crop")).min() == 255


def test_pad_shows_all_between_grey_bars() -> None:
    pixels = from_pixels(np.full((10, 20, 3), 255, np.uint8), Preprocessing(20, 20, fit="pad"))
    assert (pixels[:5] == 128).all()
    assert (pixels[5:15] == 255).all()
    assert (pixels[15:] == 128).all()


def test_empty_bytes_are_refused() -> None:
    with pytest.raises(InvalidImage, match=r"The picture is empty \(0 bytes\)\.") as caught:
        decode(b"", SMALL)
    assert (caught.value.reason, caught.value.field) == ("IMAGE_UNREADABLE", "encoded")


def test_another_format_is_refused_unread() -> None:
    for data in (b"GIF89a" + bytes(100), b"%!PS-Adobe", b"<svg></svg>", b"BM" + bytes(60), bytes(100)):
        with pytest.raises(InvalidImage, match="not a JPEG, PNG or WebP") as caught:
            decode(data, SMALL)
        assert caught.value.reason == "IMAGE_FORMAT_UNSUPPORTED"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_picture_is_refused(kind: str) -> None:
    rng = np.random.default_rng(1)
    data = encoded(Pillow.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    for length in (12, 30, len(data) // 2):
        with pytest.raises(InvalidImage, match="damaged or truncated") as caught:
            decode(data[:length], SMALL)
        assert caught.value.reason == "IMAGE_UNREADABLE"


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(InvalidImage, match="has 101 bytes; the limit is 100") as caught:
        decode(bytes(101), SMALL, limits=Limits(max_bytes=100))
    assert caught.value.reason == "IMAGE_TOO_LARGE"


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def webp_claiming(kind: bytes) -> bytes:
    """The head of a WebP file that claims 16383 x 16383 pixels."""
    heads = {
        b"VP8X": bytes(4) + (16382).to_bytes(3, "little") * 2,
        b"VP8L": b"\x2f" + (16382 | 16382 << 14).to_bytes(4, "little") + bytes(5),
        b"VP8 ": bytes(3) + b"\x9d\x01\x2a" + (16383).to_bytes(2, "little") * 2,
    }
    return b"RIFF" + bytes(4) + b"WEBP" + kind + bytes(4) + heads[kind] + bytes(100)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (png_claiming(13000, 13000), r"13000x13000 \(169 megapixels\); the limit is 40 megapixels"),
        (png_claiming(6400, 6400), r"6400x6400 \(40.96 megapixels\); the limit is 40 megapixels"),
        (png_claiming(2**31 - 1, 2**31 - 1), "40 megapixels"),
        (webp_claiming(b"VP8X"), "16383x16383"),
        (webp_claiming(b"VP8L"), "16383x16383"),
        (webp_claiming(b"VP8 "), "16383x16383"),
    ],
)
def test_a_picture_that_claims_too_many_pixels_is_refused_undecoded(data: bytes, says: str) -> None:
    with pytest.raises(InvalidImage, match=says) as caught:
        decode(data, SMALL)
    assert (caught.value.reason, caught.value.field) == ("IMAGE_TOO_LARGE", "encoded")


@pytest.mark.parametrize(
    ("kind", "size", "options", "is_slow"),
    [
        ("PNG", (2000, 2000), {}, False),
        ("PNG", (3000, 2000), {}, True),
        ("WEBP", (3000, 2000), {}, True),
        ("JPEG", (4000, 3000), {}, False),  # a telephone's
        ("JPEG", (6000, 4000), {}, True),
        ("JPEG", (4000, 3000), {"progressive": True}, True),
    ],
)
def test_what_will_take_long_to_decode_is_known_before(
    kind: str, size: tuple[int, int], options: dict[str, object], is_slow: bool
) -> None:
    checked = check(encoded(Pillow.new("RGB", size), kind, **options), SMALL)
    assert checked.is_slow == is_slow


def test_a_checked_picture_holds_no_second_copy_and_is_decoded_as_ever() -> None:
    exif = Pillow.Exif()
    exif[0x010E] = "described" * 100
    data = encoded(quadrants(), "JPEG", exif=exif)
    checked = check(data, SMALL)
    assert checked.file.data is data
    np.testing.assert_array_equal(checked.decode(), decode(data, SMALL))


def test_raw_pixels_obey_the_pixel_limit_too() -> None:
    with pytest.raises(InvalidImage, match="the limit is 1e-05 megapixels") as caught:
        from_pixels(np.zeros((4, 4, 3), np.uint8), SMALL, limits=Limits(max_pixels=10))
    assert caught.value.field == "raw"


def test_raw_pixels_without_a_pixel_are_refused() -> None:
    with pytest.raises(InvalidImage, match="at least one pixel"):
        from_pixels(np.zeros((0, 4, 3), np.uint8), SMALL)


@pytest.mark.parametrize(
    "box", [(0.5, 0, 0.5, 1), (0.6, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.1), (float("nan"), 0, 1, 1)]
)
def test_a_region_out_of_bounds_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(InvalidInput, match="0 <= x_min < x_max <= 1") as caught:
        Region(*box)
    assert caught.value.reason == "REGION_INVALID"


fraction = st.floats(0, 1, width=32)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    fraction,
    fraction,
    fraction,
    fraction,
    st.sampled_from(["stretch", "crop", "pad"]),
)
def test_any_size_and_region_give_the_models_size(
    width: int, height: int, a: float, b: float, c: float, d: float, fit: Literal["stretch", "crop", "pad"]
) -> None:
    pixels = np.full((height, width, 3), 200, np.uint8)
    to = Preprocessing(8, 12, fit=fit)
    if a == b or c == d:
        return
    region = Region(min(a, b), min(c, d), max(a, b), max(c, d))
    result = from_pixels(pixels, to, region=region)
    assert result.shape == (8, 12, 3)
    assert set(np.unique(result)) <= {128, 200}


GOOD = encoded(quadrants(), "JPEG"), encoded(quadrants(), "PNG"), encoded(quadrants(), "WEBP")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=20),
    st.integers(0, 99),
)
def test_any_damage_gives_pixels_or_a_stated_error(good: bytes, edits: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(good)
    for place, byte in edits:
        data[place % len(data)] = byte
    try:
        pixels = decode(bytes(data[: len(data) - cut]), SMALL)
    except TwinsightError as error:
        assert error.reason in {"IMAGE_UNREADABLE", "IMAGE_TOO_LARGE", "IMAGE_FORMAT_UNSUPPORTED"}  # noqa: PT017
    else:
        assert pixels.shape == (8, 8, 3)


def turned_whole(picture: Pillow.Image, orientation: int, part: Region, to: Preprocessing) -> np.ndarray:
    """What `decode` gives of a decoded picture, worked out on the whole picture at once."""
    turns = [None, None, 0, 3, 1, 5, 4, 6, 2]
    turn = turns[orientation]
    upright = picture if turn is None else picture.transpose(Pillow.Transpose(turn))
    if upright.mode == "I;16":
        upright = Pillow.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if "transparency" in upright.info or upright.mode in {"RGBA", "LA"}:
        seen = upright.convert("RGBA")
        upright = Pillow.alpha_composite(Pillow.new("RGBA", seen.size, "white"), seen)
    width, height = upright.size
    box = (part.x_min * width, part.y_min * height, part.x_max * width, part.y_max * height)
    size = (to.width_px, to.height_px)
    whole = upright.convert("RGB").resize(size, Pillow.Resampling.BILINEAR, box=box, reducing_gap=3.0)
    return np.asarray(whole)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_looked_at_in_bands_have_the_pixels_of_the_whole(
    mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(orientation)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    for width, height in ((97, 61), (300, 40), (64, 257), (7, 5)):
        if mode == "I;16":
            picture = Pillow.fromarray(rng.integers(0, 2**16, (height, width), dtype=np.uint16))
        else:
            bands = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
            picture = Pillow.fromarray(bands).convert("RGB" if mode == "P" else mode).convert(mode)
        data = encoded(picture, "PNG", exif=exif, **({"transparency": 3} if mode == "P" else {}))
        stored = Pillow.open(io.BytesIO(data))
        stored.load()
        for part in (Region(), Region(0.1, 0.25, 0.7, 0.9), Region(0.5, 0.5, 0.55, 0.6)):
            expected = turned_whole(stored, orientation, part, SMALL)
            assert np.array_equal(decode(data, SMALL, region=part), expected)
            with monkeypatch.context() as patch:
                patch.setattr("twinsight_core.images._BAND_PIXELS", 500)
                assert np.abs(decode(data, SMALL, region=part).astype(int) - expected).max() <= 1
