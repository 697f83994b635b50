"""Turns the pictures and vectors that callers pass into messages.

Files are sent as they are: the bytes of a file are not changed, and the server decodes, turns upright, crops and
resizes. Only pixels that are already decoded (NumPy, Pillow) are sent raw.

Wherever a call takes a picture or a vector, one rule distinguishes them: a sequence of numbers, a one-dimensional array
or an `Embedding` is a vector; everything else is a picture.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from twinsight.v1 import types_pb2
from twinsight_client.errors import FieldViolation, InvalidArgument
from twinsight_client.results import Embedding, ItemError, Vector

Region: TypeAlias = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max: fractions of the upright picture's width and height."""
Pixels: TypeAlias = NDArray[np.uint8]
"""[height, width, 3] uint8, RGB, 0..255."""
ImageSource: TypeAlias = bytes | str | Path | Pixels | Image.Image
UNREADABLE = "FILE_UNREADABLE"
"""Reason of an error: the client can't read a file."""
_OF_FILE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EILSEQ,
        # A name with a `?` there.
        *((errno.EINVAL,) if os.name == "nt" else ()),
    }
)


@dataclass(frozen=True, eq=False)
class ImageInput:
    """A picture, and the region of it to use.

    Attributes:
        source: bytes of a JPEG, PNG or WebP file; the path of one; pixels as [height, width, 3] uint8, RGB, 0..255; or
            a Pillow image.
        region: x_min, y_min, x_max, y_max as fractions of the upright picture's width and height; None: all of it.
    """

    source: ImageSource
    region: Region | None = None


ImageLike: TypeAlias = ImageSource | ImageInput
VectorLike: TypeAlias = Sequence[float] | NDArray[np.floating] | NDArray[np.integer] | Embedding
Content: TypeAlias = ImageLike | VectorLike
"""A picture or a vector."""


def image_message(image: ImageLike) -> types_pb2.Image:
    """Returns the message of one picture; reads the file if given a path.

    Raises:
        InvalidArgument: pixels of the wrong shape or type.
        OSError: the file can't be read.
        TypeError: not a picture.
    """
    if isinstance(image, ImageInput):
        message = image_message(image.source)
        if image.region is not None:
            message.region.CopyFrom(_box(image.region))
        return message
    if isinstance(image, bytes):
        return types_pb2.Image(encoded=image)
    if isinstance(image, str | Path):
        return types_pb2.Image(encoded=_path(image).read_bytes())
    if isinstance(image, Image.Image):
        return types_pb2.Image(raw=_raw(np.asarray(upright_rgb(image))))
    if isinstance(image, np.ndarray):
        return types_pb2.Image(raw=_raw(image))
    raise _no_picture(image)


def _no_picture(given: object) -> TypeError:
    what = "bytes, a path, a uint8 array, a Pillow image or an ImageInput"
    return TypeError(f"A picture must be {what}, not {_type_name(given)}.")


def upright_rgb(image: Image.Image) -> Image.Image:
    """Returns an RGB copy as the server sees the same file: upright, high byte of 16-bit greys, alpha over white.

    The copy differs for PNGs of 2- or 4-bit grey or 16-bit colour that declare one value transparent: Pillow no longer
    knows the value as the file has it once the pixels are read. Send these as files.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255 instead of scaling it.
        greys = np.asarray(upright)
        grey = np.clip(greys >> 8, 0, 255).astype(np.uint8)
        clear = upright.info.get("transparency")
        if isinstance(clear, int):
            grey[greys == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return upright.convert("RGB")


def size_bytes(content: Content) -> int:
    """Returns about how many bytes `content` takes in a message, without reading any file.

    Raises:
        OSError: the file does not exist.
        TypeError: it is of another type.
    """
    if isinstance(content, Embedding):
        return content.vector.nbytes
    source = content.source if isinstance(content, ImageInput) else content
    if isinstance(source, str | Path):
        return _path(source).stat().st_size
    if isinstance(source, Image.Image):
        return source.width * source.height * 3
    if isinstance(source, np.ndarray):
        return source.nbytes if source.ndim > 1 else 4 * source.size
    if isinstance(source, Sequence):
        return len(source) if isinstance(source, bytes) else 4 * len(source)
    raise _no_picture(content)


def _path(source: str | Path) -> Path:
    """Returns the path of a file.

    Raises:
        OSError: no file can have that name.
    """
    try:
        is_name = b"\0" not in os.fsencode(source)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise OSError(errno.EILSEQ, "no file can have this name", ascii(str(source))[1:-1])
    return Path(source)


def is_of_file(error: OSError) -> bool:
    """Whether an error is of that one file, which is missing or closed to the caller, say, and not of all files.

    Without a number it is Pillow's, about a picture that it reads only now.
    """
    return error.errno is None or error.errno in _OF_FILE


def unreadable(index: int, error: OSError) -> ItemError:
    """Returns the error of a picture whose file can't be read; `index` is its position in the caller's list."""
    said = error.strerror or str(error)
    message = f"`{error.filename}` can't be read: {said}." if error.filename else said
    return ItemError(index, InvalidArgument.code, UNREADABLE, message)


def vector_bytes(vector: VectorLike) -> bytes:
    """Returns `vector` in its wire format, little-endian float32.

    Raises:
        InvalidArgument: not a one-dimensional array of numbers, or empty.
    """
    try:
        array = np.asarray(vector.vector if isinstance(vector, Embedding) else vector, dtype="<f4")
    except (OverflowError, TypeError, ValueError) as error:
        raise _invalid("vector", f"A vector must contain only numbers: {error}.") from error
    if array.ndim != 1 or array.size == 0:
        raise _invalid("vector", f"A vector must have one axis and at least one component; its shape is {array.shape}.")
    return array.tobytes()


def vector_array(data: bytes) -> Vector:
    """Returns the read-only [dimension] float32 array of a vector in its wire format."""
    array = np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
    array.flags.writeable = False
    return array


def content_message(content: Content) -> types_pb2.Image | bytes:
    """Returns the message of a picture, or the bytes of a vector.

    Raises:
        InvalidArgument: pixels or vector of the wrong shape or type.
        OSError: the file can't be read.
        TypeError: neither a picture nor a vector.
    """
    if isinstance(content, np.ndarray):
        return types_pb2.Image(raw=_raw(content)) if content.ndim > 1 else vector_bytes(content)
    if isinstance(content, Embedding):
        return vector_bytes(content)
    if isinstance(content, bytearray | memoryview):  # would be a sequence of numbers
        raise _no_picture(content)
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        return vector_bytes(content)
    return image_message(content)


def _raw(pixels: NDArray[np.generic]) -> types_pb2.RawImage:
    """Returns the message of [height, width, 3] uint8 pixels."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise _invalid(
            "raw", f"Pixels must be [height, width, 3] uint8, RGB; these are {list(pixels.shape)} {pixels.dtype.name}."
        )
    return types_pb2.RawImage(height=pixels.shape[0], width=pixels.shape[1], rgb=pixels.tobytes())


def _box(region: Region) -> types_pb2.Box:
    if len(region) != 4:
        raise _invalid("region", f"`region` ({region}) must be x_min, y_min, x_max, y_max.")
    x_min, y_min, x_max, y_max = region
    return types_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _invalid(path: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="CLIENT_CHECK", violations=[FieldViolation(path, message)])
