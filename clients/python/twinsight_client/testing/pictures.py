"""Vectors of pictures that nobody looks at: drawn from their bytes."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from twinsight.v1 import types_pb2
from twinsight_client.errors import FieldViolation, InvalidArgument
from twinsight_client.results import Vector

MAX_PIXELS = 40_000_000


def picture_vector(image: types_pb2.Image, dimension: int, path: str) -> Vector:
    """Returns the [dimension] float32 vector of length 1 of a picture; equal pictures have equal vectors.

    Args:
        image: the picture.
        dimension: components wanted.
        path: of the picture in the request, for errors.

    Raises:
        InvalidArgument: the picture can't be used.
    """
    match image.WhichOneof("source"):
        case "encoded":
            _check_decodes(image.encoded, f"{path}.encoded")
        case "raw":
            if len(image.raw.rgb) != image.raw.height * image.raw.width * 3 or not image.raw.rgb:
                raise refused("IMAGE_UNREADABLE", f"{path}.raw", "`rgb` must be height x width x 3 bytes.")
        case None:
            raise refused("IMAGE_MISSING", path, "An image must have `encoded` or `raw` set.")
    box = image.region
    if image.HasField("region") and not (0 <= box.x_min < box.x_max <= 1 and 0 <= box.y_min < box.y_max <= 1):
        raise refused("REGION_INVALID", f"{path}.region", "0 <= min < max <= 1 must hold on both axes.")
    # SHAKE yields as many bytes as asked for, the same on every machine and with every version of NumPy.
    drawn = hashlib.shake_256(image.SerializeToString(deterministic=True)).digest(4 * dimension)
    numbers = np.frombuffer(drawn, dtype="<u4").astype(np.float64) / 2.0**31 - 1.0
    return (numbers / np.linalg.norm(numbers)).astype(np.float32)


def refused(reason: str, path: str, message: str) -> InvalidArgument:
    """Returns the error that names the rule and the field."""
    return InvalidArgument(message, reason=reason, violations=[FieldViolation(path, message)])


def _check_decodes(encoded: bytes, path: str) -> None:
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG", "WEBP")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise refused("IMAGE_TOO_LARGE", path, f"The image must have at most {MAX_PIXELS} pixels.")
            picture.load()
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: what Pillow raises for a broken PNG
        raise refused("IMAGE_UNREADABLE", path, "The image is not a whole JPEG, PNG or WebP file.") from error
