"""The description in a file for another runtime: its model, its input and the meaning of its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from twinsight_core.images import PAD_GREY, REDUCING_GAP
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.tasks import Task
from twinsight_core.packages import ModelPackage

PREFIX = "twinsight."
"""Of the keys in an ONNX file's `metadata_props`."""

_MEANINGS: dict[Task, str] = {
    "embedding": "[batch, dimension] float32, a vector of length 1 for each picture: the cosine similarity of two "
    "pictures is the sum of the products of their components.",
    "classification": "[batch, labels] float32, the probability of each label, in the order of `labels`; its "
    "temperature is part of the network.",
    "detection": "[batch, rows, 6] float32: x_min, y_min, x_max, y_max in fractions of the input (where `fit` is "
    "`stretch`, also of the upright picture), score 0..1, and the label's place in `labels`, from 0; by falling "
    "score; rows of zeros where nothing more was found.",
}


def describe(package: ModelPackage, *, batch: int | None) -> dict[str, object]:
    """Returns a file's description as plain values for JSON.

    Args:
        package: whose network it is.
        batch: the batch size that it is for; None for any.
    """
    card = package.card
    pixels = card.preprocessing
    return {
        "name": package.name,
        "digest": package.digest,
        "task": card.task,
        "labels": list(card.labels),
        "preprocessing": {
            "layout": "NHWC",
            "batch": batch,
            "height_px": pixels.height_px,
            "width_px": pixels.width_px,
            "channels": "RGB",
            "dtype": "uint8",
            "range": [0, 255],
            "orientation": "upright: EXIF orientation applied",
            "transparency": "composited over white",
            "fit": pixels.fit,
            "pad_rgb": list(PAD_GREY),
            "filter": "bilinear, its support widened by the scale where it shrinks (antialiasing, as Pillow does)",
            "reducing_gap": REDUCING_GAP,
            "version": pixels.version,
        },
        "answers": _MEANINGS[card.task],
        "temperature": card.config.temperature if isinstance(card.config, ClassifierConfig) else None,
        "calibration": None if card.calibration is None else card.calibration.to_json(),
        "licence": card.licence,
        "training_data": card.training_data,
        "description": card.description,
    }


def in_words(described: Mapping[str, object]) -> dict[str, str]:
    """Returns the same as text by key: words as they are, all else as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in described.items()
    }
