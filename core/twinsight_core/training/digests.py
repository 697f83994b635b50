"""Digests that identify the data of a training run, by name.

They cover what training sees, decoded pixels, and not file times: a folder that was copied, or packed into a zip, is
the same data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np

from twinsight_core.training.boxes import BoxedImages
from twinsight_core.training.data import LabelledImages
from twinsight_core.training.parts import Parts

_ROWS_AT_ONCE = 256
"""So that few of the pixels that are mapped from a file are in memory at a time."""


def labelled_digests(data: LabelledImages) -> dict[str, str]:
    """Returns the digests of class folders: of their pictures, and of their classes in order."""
    classes = _digest(list(data.classes), [data.labels])
    return {"pictures": pictures_digest(data.files, data.images), "classes": classes}


def boxed_digests(parts: Sequence[BoxedImages]) -> dict[str, str]:
    """Returns the digests of a detector's parts, in their order: of their pictures, classes and boxes."""
    return {
        "pictures": _digest([pictures_digest(one.files, one.images) for one in parts]),
        "classes": _digest([list(one.classes) for one in parts]),
        "boxes": _digest(
            [], [array for one in parts for array in (one.boxes, one.labels, one.valid, one.ignored, one.sizes)]
        ),
    }


def pictures_digest(files: Sequence[str], images: np.ndarray) -> str:
    """Returns the digest of pictures with their paths.

    Args:
        files: [count] path of each picture.
        images: [count, height, width, 3] uint8, RGB, 0..255.
    """
    return _digest(list(files), [images])


def parts_digest(parts: Parts) -> str:
    """Returns the digest of which rows are in which part."""
    return _digest([], [parts.train, parts.validation, parts.test])


def _digest(words: Sequence[object], arrays: Iterable[np.ndarray] = ()) -> str:
    """Returns the SHA-256 of JSON values and of arrays with their shapes, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(words).encode())
    for array in arrays:
        digest.update(json.dumps([array.dtype.str, array.shape]).encode())
        for start in range(0, len(array), _ROWS_AT_ONCE):
            digest.update(np.ascontiguousarray(array[start : start + _ROWS_AT_ONCE]).data)
    return digest.hexdigest()
