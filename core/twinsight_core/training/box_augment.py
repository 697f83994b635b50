"""Random views of pictures with boxes, made on the device; the boxes follow.

1. A window of random size, aspect and place, which may reach beyond the picture, becomes the view; it is mirrored along
   either axis and, where the picture is square, its axes may change places. All of it keeps boxes upright, so sampling
   is a matrix along each axis.
2. Brightness, contrast, saturation and the balance of the channels change.
3. Boxes move with the picture and are cut at the view's edge. A thing of which too little is left becomes an ignored
   region: neither a thing to find nor background. What is left of ignored regions stays ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twinsight_core.training.colours import ColourFactors, colour_change, recoloured

_GREY = 128.0
"""Fill beyond the picture's edge."""


@dataclass(frozen=True)
class BoxAugmentation:
    """How strong the views are; every share is a probability, 0..1.

    Attributes:
        zoom: least and most that things are enlarged by, above 0.
        aspect: most by which their aspect changes, at least 1.
        shift: how far beyond what is needed the window may lie outside the picture, as a share of its side, 0..1.
        mirror_x: share that is mirrored left and right.
        mirror_y: share that is mirrored top and bottom.
        transpose: share whose axes change places; square pictures only. With both mirrors these are all quarter turns.
        colour: share whose colour changes.
        strength: most that brightness, contrast and saturation change by, as a share, 0..1.
        visible: least share of a thing's area that must be left for it to be one to find, 0..1.
        untouched: share that is not changed, whatever the other values.

    Raises:
        ValueError: a value breaks its rule.
    """

    zoom: tuple[float, float] = (0.8, 1.3)
    aspect: float = 1.15
    shift: float = 0.05
    mirror_x: float = 0.5
    mirror_y: float = 0.0
    transpose: float = 0.0
    colour: float = 0.7
    strength: float = 0.25
    visible: float = 0.35
    untouched: float = 0.1

    def __post_init__(self) -> None:
        if not 0.1 <= self.zoom[0] <= self.zoom[1] <= 10.0:
            raise ValueError(f"`zoom` (={list(self.zoom)}) must be two rising numbers in 0.1..10.")
        if not 1.0 <= self.aspect <= 4.0:
            raise ValueError(f"`aspect` (={self.aspect}) must lie in 1..4.")
        for name in ("shift", "mirror_x", "mirror_y", "transpose", "colour", "strength", "visible", "untouched"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must lie in 0..1.")


class BoxedView(NamedTuple):
    """Pictures and their boxes as a step sees them.

    Attributes:
        images: [batch, height, width, 3] float32, RGB, whole numbers in 0..255.
        boxes: [batch, boxes, 4] float32, fractions of the view, 0..1; zeros where there is none.
        valid: [batch, boxes] bool, which of them are things to be found.
        ignored: [batch, boxes] bool, which of the others are no background.
    """

    images: jax.Array
    boxes: jax.Array
    valid: jax.Array
    ignored: jax.Array


class _Window(NamedTuple):
    """What each picture's view shows, all [batch].

    Attributes:
        start: x and y of the window's first corner in fractions of the picture, [batch, 2] float32.
        size: width and height of the window in fractions of the picture, [batch, 2] float32.
        mirrored: along x and along y, [batch, 2] bool.
        transposed: axes change places before all else, [batch] bool.
    """

    start: jax.Array
    size: jax.Array
    mirrored: jax.Array
    transposed: jax.Array


def boxed_views(
    key: jax.Array, images: jax.Array, boxes: jax.Array, valid: jax.Array, ignored: jax.Array, *, how: BoxAugmentation
) -> BoxedView:
    """Returns one random view of each picture, and its boxes.

    Args:
        key: random key; equal keys give equal views.
        images: [batch, height, width, 3] uint8 (or float in the same range), RGB, 0..255.
        boxes: [batch, boxes, 4] float32, x_min, y_min, x_max, y_max in fractions of the picture, 0..1.
        valid: [batch, boxes] bool, which of them are things to be found.
        ignored: [batch, boxes] bool, which of the others are regions that are no background.
        how: how strong the views are.

    Raises:
        ValueError: axes are to change places in pictures that are not square.
    """
    _, height, width, _ = images.shape
    if how.transpose > 0 and height != width:
        raise ValueError(f"`transpose` (={how.transpose}) must be 0: pictures of {height}x{width} are not square.")
    geometry, colour = jax.random.split(key)
    window = _draw_window(geometry, len(images), how)
    pixels = _recolour(colour, _resample(images.astype(jnp.float32), window, turns=how.transpose > 0), how)
    cut, share = _move(boxes, window)
    there = (valid | ignored) & (share > 0)
    found = valid & there & (share >= how.visible * (1.0 - 1e-5))
    return BoxedView(
        images=jnp.round(jnp.clip(pixels, 0.0, 255.0)),
        boxes=jnp.where(there[..., None], cut, 0.0),
        valid=found,
        ignored=there & ~found,
    )


def _draw_window(key: jax.Array, batch: int, how: BoxAugmentation) -> _Window:
    keys = jax.random.split(key, 6)
    low, high = np.log(how.zoom[0]), np.log(how.zoom[1])
    zoom = jax.random.uniform(keys[0], (batch, 1), minval=low, maxval=high)
    bound = np.log(how.aspect) / 2
    stretch = jax.random.uniform(keys[1], (batch, 1), minval=-bound, maxval=bound)
    size = jnp.exp(-zoom + jnp.concatenate([stretch, -stretch], axis=1))
    # Anywhere between flush with one side of the picture and flush with the other, and a little beyond.
    places, shifts = jax.random.split(keys[2])
    place = jax.random.uniform(places, (batch, 2))
    beyond = jax.random.uniform(shifts, (batch, 2), minval=-how.shift, maxval=how.shift)
    untouched = jax.random.bernoulli(keys[5], how.untouched, (batch, 1))
    mirrored = jax.random.bernoulli(keys[3], jnp.array([how.mirror_x, how.mirror_y]), (batch, 2))
    transposed = jax.random.bernoulli(keys[4], how.transpose, (batch,))
    return _Window(
        start=jnp.where(untouched, 0.0, place * (1.0 - size) + beyond),
        size=jnp.where(untouched, 1.0, size),
        mirrored=mirrored & ~untouched,
        transposed=transposed & ~untouched[:, 0],
    )


def _resample(images: jax.Array, window: _Window, *, turns: bool) -> jax.Array:
    _, height, width, _ = images.shape
    if turns:
        images = jnp.where(window.transposed[:, None, None, None], images.transpose(0, 2, 1, 3), images)
    across_x, inside_x = _axis(window.start[:, 0], window.size[:, 0], window.mirrored[:, 0], width)
    across_y, inside_y = _axis(window.start[:, 1], window.size[:, 1], window.mirrored[:, 1], height)
    pixels = jnp.einsum("boh,bhwc->bowc", across_y, images)
    pixels = jnp.einsum("bow,bhwc->bhoc", across_x, pixels)
    inside = inside_y[:, :, None, None] & inside_x[:, None, :, None]
    return jnp.where(inside, pixels, _GREY)


def _axis(start: jax.Array, size: jax.Array, mirrored: jax.Array, cells: int) -> tuple[jax.Array, jax.Array]:
    """Returns the weights that make one axis of the view, and which of its cells lie in the picture.

    The weights, [batch, cells of the view, cells of the picture] float32, are bilinear, as wide as the step where the
    picture shrinks, and of sum 1. The second result is [batch, cells of the view] bool.
    """
    centres = (jnp.arange(cells) + 0.5) / cells
    seen = jnp.where(mirrored[:, None], 1.0 - centres, centres)
    places = (start[:, None] + seen * size[:, None]) * cells - 0.5
    inside = (places >= -0.5) & (places <= cells - 0.5)
    wide = jnp.maximum(size, 1.0)[:, None, None]
    clipped = jnp.clip(places, 0.0, cells - 1.0)
    weights = jnp.maximum(1.0 - jnp.abs(clipped[..., None] - jnp.arange(cells)) / wide, 0.0)
    return weights / jnp.sum(weights, axis=-1, keepdims=True), inside


def _move(boxes: jax.Array, window: _Window) -> tuple[jax.Array, jax.Array]:
    """Returns where boxes are in the view, cut at its edge, and the share of each that is left, [batch, boxes]."""
    boxes = jnp.where(window.transposed[:, None, None], boxes[..., jnp.array([1, 0, 3, 2])], boxes)
    start, size = jnp.tile(window.start, 2)[:, None], jnp.tile(window.size, 2)[:, None]
    moved = (boxes - start) / size
    mirrored = jnp.tile(window.mirrored, 2)[:, None]
    moved = jnp.where(mirrored, 1.0 - moved[..., jnp.array([2, 3, 0, 1])], moved)
    cut = jnp.clip(moved, 0.0, 1.0)
    # Boxes that are not there have no area.
    return cut, _area(cut) / jnp.maximum(_area(moved), 1e-12)


def _area(boxes: jax.Array) -> jax.Array:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _recolour(key: jax.Array, pixels: jax.Array, how: BoxAugmentation) -> jax.Array:
    """Changes the colours of some pictures."""
    keys = jax.random.split(key, 5)
    batch = len(pixels)

    def factor(one: jax.Array, strength: float, count: int) -> jax.Array:
        return jax.random.uniform(one, (batch, count, 1), minval=1.0 - strength, maxval=1.0 + strength)

    brightness, contrast, saturation = (factor(one, how.strength, 1) for one in keys[:3])
    by = ColourFactors(brightness, contrast, saturation, factor(keys[3], how.strength / 3, 3))
    changes = jax.random.bernoulli(keys[4], how.colour, (batch, 1, 1))
    return recoloured(pixels, *colour_change(pixels, by, changes=changes))
