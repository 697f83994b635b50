"""Anchors: the boxes that proposals start from, some around the centre of every place of every map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def map_sizes(height_px: int, width_px: int, *, strides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Returns the rows and columns of the map of each stride, rounded up as the backbones pad."""
    return tuple((-(-height_px // stride), -(-width_px // stride)) for stride in strides)


def anchor_shapes(size: float, *, scales: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Returns the width and height of the anchors around one place, [scales x ratios, 2] float32.

    An anchor of a scale has the area (size x scale)^2 whatever its ratio.

    Source: Ren et al., "Faster R-CNN", NIPS 2015, section 3.1.1.

    Args:
        size: side of a square anchor at scale 1, in pixels.
        scales: factors on `size`.
        ratios: height by width.
    """
    sides = size * np.repeat(np.asarray(scales, np.float64), len(ratios))
    roots = np.sqrt(np.tile(np.asarray(ratios, np.float64), len(scales)))
    return np.stack([sides / roots, sides * roots], axis=1).astype(np.float32)


def level_anchors(rows: int, columns: int, *, stride: int, shapes: np.ndarray) -> np.ndarray:
    """Returns the anchors of one map.

    Args:
        rows: of the map.
        columns: of the map.
        stride: pixels of the picture between neighbouring places.
        shapes: [shapes, 2] float32, width and height in pixels.

    Returns:
        [rows x columns x shapes, 4] float32, pixels; by row, then column, then shape; around the places' centres.
    """
    y, x = np.meshgrid((np.arange(rows) + 0.5) * stride, (np.arange(columns) + 0.5) * stride, indexing="ij")
    centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    corners = np.concatenate([centres - shapes / 2, centres + shapes / 2], axis=-1)
    return corners.reshape(-1, 4).astype(np.float32)
