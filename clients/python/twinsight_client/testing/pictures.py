"""Results for pictures without a model: pseudo-random, derived from their bytes."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight.v1 import types_pb2
from twinsight_client.errors import FieldViolation, InvalidArgument
from twinsight_client.results import Vector

ROUNDING = 1e-6
"""Tolerance for rounding to 32-bit numbers."""

MAX_BYTES = 16 * 1024 * 1024
MAX_PIXELS = 40_000_000
_TOO_MANY_PIXELS = f"The image must have at most {MAX_PIXELS} pixels."
DETECTIONS = 3
"""Largest number of objects that a fake detector finds in a picture."""


def picture_vector(image: types_pb2.Image, dimension: int, path: str) -> Vector:
    """Returns the [dimension] float32 vector of length 1 of a picture; equal pictures have equal vectors.

    Args:
        image: the picture.
        dimension: number of components.
        path: of the picture in the request, for errors.

    Raises:
        InvalidArgument: the picture can't be used.
    """
    numbers = _drawn(image, dimension, path) * 2.0 - 1.0
    return (numbers / np.linalg.norm(numbers)).astype(np.float32)


def picture_labels(image: types_pb2.Image, labels: Sequence[str], path: str) -> list[inference_pb.Label]:
    """Returns all labels of a picture, the most probable first.

    Args:
        image: the picture.
        labels: of the model.
        path: of the picture in the request, for errors.

    Raises:
        InvalidArgument: the picture can't be used.
    """
    numbers = np.exp(4.0 * _drawn(image, len(labels), path))
    shares = (numbers / numbers.sum()).tolist()
    drawn = [inference_pb.Label(label=one, probability=share) for one, share in zip(labels, shares, strict=True)]
    return sorted(drawn, key=lambda one: -one.probability)


def picture_detections(image: types_pb2.Image, labels: Sequence[str], path: str) -> list[inference_pb.Detection]:
    """Returns at most `DETECTIONS` objects in a picture or its region, highest score first.

    Args:
        image: the picture.
        labels: of the model.
        path: of the picture in the request, for errors.

    Raises:
        InvalidArgument: the picture can't be used.
    """
    numbers = _drawn(image, 6 * DETECTIONS, path).reshape(DETECTIONS, 6)
    part = image.region if image.HasField("region") else types_pb2.Box(x_max=1, y_max=1)
    found: list[inference_pb.Detection] = []
    for left, top, width, height, score, label in numbers.tolist():
        # The near corner lies in the first half of the region, and the far one at least a quarter of it beyond.
        x_min, y_min = left / 2, top / 2
        x_max, y_max = x_min + 0.25 + width / 4, y_min + 0.25 + height / 4
        box = types_pb2.Box(
            x_min=part.x_min + x_min * (part.x_max - part.x_min),
            y_min=part.y_min + y_min * (part.y_max - part.y_min),
            x_max=part.x_min + x_max * (part.x_max - part.x_min),
            y_max=part.y_min + y_max * (part.y_max - part.y_min),
        )
        found.append(inference_pb.Detection(box=box, label=labels[int(label * len(labels))], score=score))
    return sorted(found, key=lambda one: -one.score)


def _drawn(image: types_pb2.Image, count: int, path: str) -> NDArray[np.float64]:
    """Returns [count] numbers in 0..1, the same for equal pictures; raises InvalidArgument for an invalid picture."""
    match image.WhichOneof("source"):
        case "encoded":
            _check_decodes(image.encoded, f"{path}.encoded")
        case "raw":
            if len(image.raw.rgb) != image.raw.height * image.raw.width * 3 or not image.raw.rgb:
                raise refused("IMAGE_UNREADABLE", f"{path}.raw", "`rgb` must be height x width x 3 bytes.")
        case None:
            raise refused("IMAGE_MISSING", path, "The image must have `encoded` or `raw` set.")
    box = image.region
    x_min, y_min, x_max, y_max = (_within(one) for one in (box.x_min, box.y_min, box.x_max, box.y_max))
    if image.HasField("region") and not (0 <= x_min < x_max <= 1 and 0 <= y_min < y_max <= 1):
        raise refused("REGION_INVALID", f"{path}.region", "0 <= min < max <= 1 must hold on both axes.")
    # SHAKE yields any number of bytes, the same on every machine and with every version of NumPy.
    drawn = hashlib.shake_256(image.SerializeToString(deterministic=True)).digest(4 * count)
    return np.frombuffer(drawn, dtype="<u4").astype(np.float64) / 2.0**32


def _within(edge: float) -> float:
    """Moves an edge that rounding has carried just past the picture's back onto it, as a server does."""
    return min(max(edge, 0.0), 1.0) if -ROUNDING <= edge <= 1 + ROUNDING else edge


def refused(reason: str, path: str, message: str) -> InvalidArgument:
    """Returns the error that names the rule and the field."""
    return InvalidArgument(message, reason=reason, violations=[FieldViolation(path, message)])


def _check_decodes(encoded: bytes, path: str) -> None:
    if len(encoded) > MAX_BYTES:
        raise refused("IMAGE_TOO_LARGE", path, f"The image must have at most {MAX_BYTES} bytes.")
    if encoded and not (encoded.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or encoded[8:12] == b"WEBP"):
        raise refused("IMAGE_FORMAT_UNSUPPORTED", path, "The image is not a JPEG, PNG or WebP file.")
    try:
        # Far above the server's limit Pillow itself warns, and beyond that raises.
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG", "WEBP")) as picture,
        ):
            if picture.width * picture.height > MAX_PIXELS:
                raise refused("IMAGE_TOO_LARGE", path, _TOO_MANY_PIXELS)
            picture.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise refused("IMAGE_TOO_LARGE", path, _TOO_MANY_PIXELS) from error
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: what Pillow raises for a broken PNG
        raise refused("IMAGE_UNREADABLE", path, "The image is not a whole JPEG, PNG or WebP file.") from error
