"""Pictures and vectors as messages."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from twinsight.v1 import types_pb2
from twinsight_client import ImageInput, InvalidArgument
from twinsight_client.images import content_message, image_message, size_bytes, vector_array, vector_bytes

pytestmark = pytest.mark.client


def test_files_travel_untouched_whether_given_as_bytes_or_path(tmp_path: Path, picture: Callable[[int], bytes]) -> None:
    data = picture(1)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    for given_as in (data, path, str(path)):
        assert image_message(given_as).encoded == data
        assert size_bytes(given_as) == len(data)


def test_pixels_travel_raw_row_by_row() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    raw = image_message(pixels).raw
    assert (raw.height, raw.width, raw.rgb) == (2, 3, bytes(range(18)))
    assert image_message(pixels[:, ::-1]).raw.rgb[:3] == bytes([6, 7, 8])


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((2, 3, 4), np.uint8), "[2, 3, 4] uint8"),
        (np.zeros((2, 3), np.uint8), "[2, 3] uint8"),
        (np.zeros((2, 3, 3), np.float64), "[2, 3, 3] float64"),
        (np.zeros((0, 3, 3), np.uint8), "[0, 3, 3] uint8"),
    ],
)
def test_pixels_of_another_shape_or_type_are_refused_before_sending(pixels: np.ndarray, said: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        image_message(pixels)
    assert str(raised.value) == f"Pixels must be [height, width, 3] uint8, RGB; these are {said}."


def test_a_pillow_image_is_sent_upright_and_over_white() -> None:
    turned = Image.new("RGB", (2, 1))
    turned.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # rows run down: turn by 90 degrees clockwise
    buffer = io.BytesIO()
    turned.save(buffer, format="PNG", exif=exif)
    raw = image_message(Image.open(buffer)).raw
    assert (raw.height, raw.width) == (2, 1)
    assert raw.rgb[:3] == b"\xff\0\0"

    clear = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
    assert image_message(clear).raw.rgb == b"\xff\xff\xff"


def test_a_sixteen_bit_pillow_image_is_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.array([[0, 0x80FF]], dtype=np.uint16))
    assert image_message(deep).raw.rgb == b"\0\0\0\x80\x80\x80"


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_grey_of_the_transparent_colour_is_white_and_integers_are_scaled_too(mode: str) -> None:
    greys = np.array([[0, 0x80FF, 0x1234]], dtype=np.uint16)
    encoded = io.BytesIO()
    Image.fromarray(greys).save(encoded, format="PNG", transparency=0x1234)
    with Image.open(encoded) as deep:
        picture = deep if mode == "I;16" else deep.convert("I")
        assert (picture.mode, picture.info["transparency"]) == (mode, 0x1234)
        assert image_message(picture).raw.rgb == b"\0\0\0\x80\x80\x80\xff\xff\xff"
    beyond = Image.fromarray(np.array([[-5, 70_000]], dtype=np.int32))
    assert image_message(beyond).raw.rgb == b"\0\0\0\xff\xff\xff"


def test_a_region_goes_with_its_picture(picture: Callable[[int], bytes]) -> None:
    message = image_message(ImageInput(picture(1), region=(0.25, 0, 1, 0.5)))
    assert message.region == types_pb2.Box(x_min=0.25, y_min=0, x_max=1, y_max=0.5)
    assert not image_message(ImageInput(picture(1))).HasField("region")


def test_what_is_no_picture_is_told_by_its_type() -> None:
    for content in (bytearray(b"x"), memoryview(b"x")):  # sequences of numbers, and yet no vectors
        with pytest.raises(TypeError, match=r"A picture must be bytes, .* not (bytearray|memoryview)\.$"):
            content_message(content)
    with pytest.raises(TypeError, match=r"not int\.$"):
        image_message(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        image_message("nowhere.jpg")


@given(arrays.arrays(np.float32, st.integers(1, 64), elements=st.floats(width=32)))
def test_vectors_survive_the_wire_to_the_bit(vector: np.ndarray) -> None:
    back = vector_array(vector_bytes(vector))
    assert back.tobytes() == vector.tobytes()
    assert back.dtype == np.float32
    assert not back.flags.writeable


def test_vectors_are_little_endian_float32() -> None:
    assert vector_bytes([1.0, -2.0]) == b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    assert vector_bytes(np.array([1, -2])) == vector_bytes([1.0, -2.0])


@pytest.mark.parametrize("vector", [[], np.zeros((2, 2), np.float32), ["a"]])
def test_what_is_no_vector_is_refused_before_sending(vector: list[float]) -> None:
    with pytest.raises(InvalidArgument, match="A vector must"):
        vector_bytes(vector)


def test_numbers_in_one_axis_are_a_vector_and_everything_else_a_picture(picture: Callable[[int], bytes]) -> None:
    for vector in ([1.0, 2.0], (1, 2), np.array([1.0, 2.0])):
        assert content_message(vector) == vector_bytes([1.0, 2.0])
    for image in (picture(1), ImageInput(picture(1)), np.zeros((1, 1, 3), np.uint8), Image.new("RGB", (1, 1))):
        assert isinstance(content_message(image), types_pb2.Image)


def test_the_size_of_what_is_not_read_yet_is_known_roughly() -> None:
    assert size_bytes(np.zeros((4, 5, 3), np.uint8)) == 60
    assert size_bytes(Image.new("RGB", (5, 4))) == 60
    assert size_bytes([1.0, 2.0]) == 8
    assert size_bytes(ImageInput(b"12345")) == 5
