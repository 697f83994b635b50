"""Converts boxes in a network's input to boxes in the client's picture: inverts `twinsight_core.images`."""

from __future__ import annotations

import numpy as np

from twinsight_core.images import WHOLE, Preprocessing, Region, upright_size
from twinsight_server.inference.pipeline import Picture

_ALL_OF_REGION = np.array([0.0, 0.0, 1.0, 1.0])
"""Left, top, width and height of an input that shows exactly the region."""


def picture_boxes(boxes: np.ndarray, picture: Picture, to: Preprocessing) -> np.ndarray:
    """Returns boxes in fractions of the whole upright picture.

    Args:
        boxes: [count, 4] float32, x_min, y_min, x_max, y_max in fractions of the network's input.
        picture: the picture that the input was made from, decoded once already.
        to: how the input was made.

    Returns:
        [count, 4] float32, 0..1, clipped to the picture's region; a box outside it has no extent.
    """
    region = picture.region or WHOLE
    seen = _ALL_OF_REGION if to.fit == "stretch" else _input_in_region(_size(picture.source), region, to)
    least = np.array([region.x_min, region.y_min] * 2)
    most = np.array([region.x_max, region.y_max] * 2)
    in_region = np.tile(seen[:2], 2) + boxes.astype(np.float64) * np.tile(seen[2:], 2)
    placed: np.ndarray = np.clip(least + in_region * (most - least), least, most).astype(np.float32)
    return placed


def _input_in_region(size: tuple[int, int], region: Region, to: Preprocessing) -> np.ndarray:
    """Returns position and size of a network's input in fractions of the region; padding lies outside the region.

    Args:
        size: width and height of the whole picture.
        region: the part that the input was made from.
        to: with the fit "crop" or "pad".

    Returns:
        [4] float64: left, top, width, height.
    """
    part = np.array([(region.x_max - region.x_min) * size[0], (region.y_max - region.y_min) * size[1]])
    target = np.array([to.width_px, to.height_px])
    if to.fit == "crop":
        fraction = target / (part * np.max(target / part))
        return np.concatenate([(1 - fraction) / 2, fraction])
    # Rounded to whole pixels, as when the picture was pasted onto the grey.
    pasted = np.maximum(1, np.round(part * np.min(target / part)))
    padded: np.ndarray = np.concatenate([-((target - pasted) // 2), target]) / np.tile(pasted, 2)
    return padded


def _size(source: bytes | np.ndarray) -> tuple[int, int]:
    """Returns width and height in pixels of the upright picture."""
    return (source.shape[1], source.shape[0]) if isinstance(source, np.ndarray) else upright_size(source)
