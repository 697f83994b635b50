"""RoIAlign over a pyramid: the features of a box, of equal size whatever the box.

The places where a box is sampled form a grid along the axes, so bilinear sampling and the mean of the samples are one
matrix along the rows and one along the columns: two products instead of gathers, whose gradients are products too.
XLA:CPU is an order of magnitude slower at gathers and at the scatters of their gradients. Every box is looked up in
every map, with weights of 0 in those that are not its own; so shapes do not depend on the boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from twinsight_core.models.rcnn.boxes import box_area

# Stride of the map that a box of the canonical size is looked up in. Source: Lin et al., 2017: level 4.
CANONICAL_STRIDE = 16


def pyramid_level(boxes: jax.Array, *, strides: Sequence[int], canonical_px: float) -> jax.Array:
    """Returns the map that each box is looked up in, [...] int32, index into `strides`.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, eq. 1, with the canonical size of
    224 px as an argument.

    Args:
        boxes: [..., 4] float32, pixels.
        strides: of the maps, each twice the one before.
        canonical_px: root of the area of the boxes that belong to the map of stride 16.
    """
    # A hair above, so that a box of exactly the canonical size is not rounded down.
    side = jnp.sqrt(jnp.maximum(box_area(boxes), 1e-6)) / canonical_px * (1.0 + 1e-6)
    scale = side * (CANONICAL_STRIDE / strides[0])
    # The logarithm, rounded down and clipped, as the number of powers of two that are reached: the same on all devices.
    reached = [(scale >= 2.0**level).astype(jnp.int32) for level in range(1, len(strides))]
    return sum(reached, start=jnp.zeros_like(scale, jnp.int32))


def roi_align(
    maps: Sequence[jax.Array],
    boxes: jax.Array,
    *,
    strides: Sequence[int],
    canonical_px: float,
    size: int = 7,
    samples: int = 2,
) -> jax.Array:
    """Returns the features of each box.

    A box is cut into size x size bins; a bin is the mean of samples x samples places in it, each interpolated
    bilinearly. The value of a map's cell stands at its centre (half a cell from its edges). Places more than a cell
    outside the map count as 0.

    Source: He et al., "Mask R-CNN", ICCV 2017, section 3 (RoIAlign); the half cell as in the authors' later code.

    Args:
        maps: [batch, rows, columns, channels] float32 of each level.
        boxes: [batch, n, 4] float32, pixels of the picture.
        strides: of the maps, each twice the one before.
        canonical_px: as for `pyramid_level`.
        size: bins along each side.
        samples: places along each side of a bin.

    Returns:
        [batch, n, size, size, channels] float32.
    """
    level = pyramid_level(boxes, strides=strides, canonical_px=canonical_px)
    total: jax.Array | None = None
    for number, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        batch, rows, columns, channels = features.shape
        mine = (level == number).astype(features.dtype)[..., None, None]
        across_rows = mine * bin_weights(boxes[..., 1] / stride, boxes[..., 3] / stride, rows, size, samples)
        across_columns = bin_weights(boxes[..., 0] / stride, boxes[..., 2] / stride, columns, size, samples)
        # Both are plain products of matrices: one a picture, then one a box. With the rows of the second kept together
        # XLA:CPU takes half the time of the shortest way to write it, gradients included. A weight rounded to bfloat16
        # would move the place that it is of.
        columns_first = features.transpose(0, 2, 1, 3)
        bands = jnp.einsum("bnqw,bwhc->bnqhc", across_columns, columns_first, precision=jax.lax.Precision.HIGHEST)
        bands = bands.transpose(0, 1, 3, 2, 4).reshape(batch, -1, rows, size * channels)
        bins = jnp.einsum("bnph,bnhk->bnpk", across_rows, bands, precision=jax.lax.Precision.HIGHEST)
        bins = bins.reshape(batch, -1, size, size, channels)
        total = bins if total is None else total + bins
    if total is None:
        raise ValueError("`maps` must hold one.")
    return total


def bin_weights(start: jax.Array, stop: jax.Array, cells: int, size: int, samples: int) -> jax.Array:
    """Returns how much each cell of an axis counts in each bin.

    Args:
        start: [...] float32, one edge of the boxes in cells.
        stop: [...] float32, the other edge in cells.
        cells: of the axis.
        size: bins of a box.
        samples: places in a bin.

    Returns:
        [..., size, cells] float32, 0..1, of sum 1 for a bin inside the axis.
    """
    steps = (jnp.arange(size * samples) + 0.5) / (size * samples)
    places = start[..., None] + (stop - start)[..., None] * steps - 0.5
    inside = (places >= -1.0) & (places <= cells)
    apart = jnp.abs(jnp.clip(places, 0.0, cells - 1.0)[..., None] - jnp.arange(cells))
    weights = jnp.where(inside[..., None], jnp.maximum(1.0 - apart, 0.0), 0.0)
    return jnp.mean(weights.reshape(*start.shape, size, samples, cells), axis=-2)
