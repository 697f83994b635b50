"""Boxes: how far they overlap, and one box as a change of another.

A box is x_min, y_min, x_max, y_max in pixels of the input, as edges: a pixel in column 3 reaches from 3.0 to 4.0.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

# Of encode and decode. Source: the reference code of Ren et al., NIPS 2015: the box head's deltas are divided by their
# standard deviations of 0.1 and 0.2, the proposals' are not.
PROPOSAL_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
BOX_HEAD_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
# The most that a box grows by, as a logarithm: from 16 px to 1000 px. Source: Girshick et al., "Detectron", 2018.
MAX_LOG_GROWTH = math.log(1000.0 / 16.0)


def box_area(boxes: jax.Array) -> jax.Array:
    """Returns the area of boxes, [...] float32; 0 where an edge lies beyond its opposite.

    Args:
        boxes: [..., 4] float32.
    """
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def intersection_over_union(left: jax.Array, right: jax.Array) -> jax.Array:
    """Returns the overlap of each box with each other one.

    Args:
        left: [..., n, 4] float32.
        right: [..., m, 4] float32.

    Returns:
        [..., n, m] float32, 0..1; 0 between boxes without area.
    """
    common = _common_area(left, right)
    union = box_area(left)[..., :, None] + box_area(right)[..., None, :] - common
    return jnp.where(union > 0, common / jnp.where(union > 0, union, 1.0), 0.0)


def covered_share(boxes: jax.Array, regions: jax.Array) -> jax.Array:
    """Returns the share of each box's area that lies in each region.

    Args:
        boxes: [..., n, 4] float32.
        regions: [..., m, 4] float32.

    Returns:
        [..., n, m] float32, 0..1; 0 for boxes without area.
    """
    area = box_area(boxes)[..., :, None]
    return jnp.where(area > 0, _common_area(boxes, regions) / jnp.where(area > 0, area, 1.0), 0.0)


def encode(boxes: jax.Array, *, anchors: jax.Array, weights: tuple[float, float, float, float]) -> jax.Array:
    """Returns the deltas that make `boxes` of `anchors`.

    Source: Ren et al., "Faster R-CNN", NIPS 2015, eq. 2.

    Args:
        boxes: [..., 4] float32.
        anchors: [..., 4] float32, with area.
        weights: factors on the four deltas.

    Returns:
        [..., 4] float32: shift in x and y in anchor sides, logarithm of the growth in width and height. Finite also
        for boxes without area, whose deltas mean nothing.
    """
    centre, size = _centre_and_size(boxes)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    anchor_size = jnp.maximum(anchor_size, 1e-6)
    shift = (centre - anchor_centre) / anchor_size
    growth = jnp.log(jnp.maximum(size, 1e-6) / anchor_size)
    return jnp.concatenate([shift, growth], axis=-1) * jnp.array(weights)


def decode(deltas: jax.Array, *, anchors: jax.Array, weights: tuple[float, float, float, float]) -> jax.Array:
    """Returns the boxes that `deltas` make of `anchors`; the inverse of `encode`.

    Args:
        deltas: [..., 4] float32.
        anchors: [..., 4] float32.
        weights: factors on the four deltas.

    Returns:
        [..., 4] float32; no side grows by more than `exp(MAX_LOG_GROWTH)`.
    """
    plain = deltas / jnp.array(weights)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre = anchor_centre + plain[..., :2] * anchor_size
    size = anchor_size * jnp.exp(jnp.minimum(plain[..., 2:], MAX_LOG_GROWTH))
    return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def clip(boxes: jax.Array, *, height_px: int, width_px: int) -> jax.Array:
    """Returns the parts of boxes that lie inside the picture; what lies outside has no area left.

    Args:
        boxes: [..., 4] float32.
        height_px: height of the picture.
        width_px: width of the picture.
    """
    return jnp.clip(boxes, 0.0, picture_scale(height_px, width_px))


def wide_enough(boxes: jax.Array, *, least_px: float) -> jax.Array:
    """Returns which boxes have both sides of at least `least_px`, [...] bool.

    Args:
        boxes: [..., 4] float32.
        least_px: above 0.
    """
    return jnp.all(boxes[..., 2:] - boxes[..., :2] >= least_px, axis=-1)


def picture_scale(height_px: int, width_px: int) -> jax.Array:
    """Returns what fractions of a picture are multiplied by to be pixels, [4] float32."""
    return jnp.array([width_px, height_px, width_px, height_px], jnp.float32)


def _common_area(left: jax.Array, right: jax.Array) -> jax.Array:
    least = jnp.maximum(left[..., :, None, :2], right[..., None, :, :2])
    most = jnp.minimum(left[..., :, None, 2:], right[..., None, :, 2:])
    sides = jnp.maximum(most - least, 0.0)
    return sides[..., 0] * sides[..., 1]


def _centre_and_size(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
