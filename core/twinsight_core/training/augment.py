"""Random views of pictures, made on the device: what an embedding must not mind.

1. A crop of random area and aspect, mirrored and turned, is sampled in one bilinear step.
2. Brightness, contrast, saturation and the balance of the channels change; some pictures lose their colour.
3. Some are blurred, and some go through the quantised 8x8 cosine blocks of a JPEG.

The functions are pure and made to be jitted; `views` is the only one that others need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from twinsight_core.training.colours import LUMA, ColourFactors, colour_change, recoloured

_BLOCK = 8
# ITU-T T.81, table K.1: luminance quantisation at quality 50.
_JPEG_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)


@dataclass(frozen=True)
class Augmentation:
    """How strong the views are; every share is a probability, 0..1.

    Attributes:
        area: least and most of the picture's area that a crop keeps; above 1 the picture is made smaller instead.
        aspect: most by which a crop's aspect differs from the picture's, at least 1.
        mirror: share that is mirrored left and right.
        turn: share that is turned by 90, 180 or 270 degrees.
        rotate: share that is rotated by up to `degrees`.
        degrees: most that is rotated by, either way.
        shear: most that one axis leans towards the other, as a share of the side, either way.
        elastic: how far places are pushed about, as a share of the side: a standard deviation. Source: Simard et al.,
            "Best Practices for Convolutional Neural Networks", ICDAR 2003, section 2.
        outside: fill beyond the picture's edge: "black", or the "edge" itself.
        colour: share whose colour changes.
        strength: most that brightness, contrast and saturation change by, as a share.
        grey: share that loses its colour.
        blur: share that is blurred.
        jpeg: share that is compressed.
        untouched: share that is not changed, whatever the other values.
    """

    area: tuple[float, float] = (0.35, 1.0)
    aspect: float = 1.25
    mirror: float = 0.5
    turn: float = 0.15
    rotate: float = 0.4
    degrees: float = 20.0
    shear: float = 0.0
    elastic: float = 0.0
    outside: Literal["black", "edge"] = "black"
    colour: float = 0.7
    strength: float = 0.4
    grey: float = 0.1
    blur: float = 0.25
    jpeg: float = 0.3
    untouched: float = 0.3


PRESETS: dict[str, Augmentation] = {
    "photographs": Augmentation(),
    "faces": Augmentation(
        area=(0.7, 1.0), turn=0.0, rotate=0.5, degrees=10.0, colour=0.5, strength=0.3, blur=0.2, jpeg=0.2, untouched=0.2
    ),
    # Drawn by another hand: leaning, larger or smaller, elsewhere, never of another colour.
    "glyphs": Augmentation(
        area=(0.75, 1.3),
        mirror=0.0,
        turn=0.0,
        rotate=1.0,
        degrees=15.0,
        shear=0.2,
        elastic=0.02,
        outside="edge",
        colour=0.0,
        grey=0.0,
        blur=0.0,
        jpeg=0.0,
        untouched=0.0,
    ),
    "none": Augmentation(untouched=1.0),
}
"""Kinds of pictures, by the name that the command line takes."""


def views(key: jax.Array, images: jax.Array, *, how: Augmentation) -> jax.Array:
    """Returns one random view of each picture.

    Args:
        key: random key; equal keys give equal views.
        images: [batch, height, width, 3] uint8, RGB, 0..255; sides are multiples of 8.
        how: how strong the views are.

    Returns:
        [batch, height, width, 3] float32, RGB, whole numbers in 0..255 as a decoder gives them.
    """
    geometry, colour, blur, jpeg, untouched = jax.random.split(key, 5)
    originals = images.astype(jnp.float32)
    pixels = _resample(geometry, originals, how)
    if how.colour or how.grey:
        pixels = _recolour(colour, pixels, how)
    if how.blur:
        pixels = _blur(blur, pixels, how)
    if how.jpeg:
        pixels = _compress(jpeg, pixels, how)
    return _some(untouched, how.untouched, originals, jnp.round(jnp.clip(pixels, 0.0, 255.0)))


def _resample(key: jax.Array, images: jax.Array, how: Augmentation) -> jax.Array:
    batch, height, width, _ = images.shape
    keys = jax.random.split(key, 9)
    area = jax.random.uniform(keys[0], (batch,), minval=how.area[0], maxval=how.area[1])
    bound = np.log(how.aspect)
    aspect = jnp.exp(jax.random.uniform(keys[1], (batch,), minval=-bound, maxval=bound))
    most = max(1.0, float(np.sqrt(how.area[1])))
    scale_x = jnp.minimum(jnp.sqrt(area * aspect), most)
    scale_y = jnp.minimum(jnp.sqrt(area / aspect), most)
    shift = jax.random.uniform(keys[2], (batch, 2), minval=-1.0, maxval=1.0)
    mirrored = jnp.where(jax.random.bernoulli(keys[3], how.mirror, (batch,)), -1.0, 1.0)
    angle = jnp.where(
        jax.random.bernoulli(keys[4], how.rotate, (batch,)),
        jax.random.uniform(keys[5], (batch,), minval=-how.degrees, maxval=how.degrees) * (jnp.pi / 180.0),
        0.0,
    )
    turns, which = jax.random.split(keys[6])
    quarters = jax.random.randint(which, (batch,), 1, 4) * jax.random.bernoulli(turns, how.turn, (batch,))
    angle = angle + quarters * (jnp.pi / 2)
    # From a place in the view, -1..1 on both axes, to one in the picture: rotate, mirror, scale, shift into it.
    y, x = jnp.meshgrid(_centres(height), _centres(width), indexing="ij")
    cos, sin = jnp.cos(angle)[:, None, None], jnp.sin(angle)[:, None, None]
    lean = jax.random.uniform(keys[7], (batch, 2, 1, 1), minval=-how.shear, maxval=how.shear)
    x, y = x + lean[:, 0] * y, y + lean[:, 1] * x
    if how.elastic:
        pushed = _smooth_noise(keys[8], batch, height, width) * (2 * how.elastic)
        x, y = x + pushed[..., 0], y + pushed[..., 1]
    turned_x, turned_y = cos * x - sin * y, sin * x + cos * y
    source_x = turned_x * (mirrored * scale_x)[:, None, None] + ((1 - scale_x) * shift[:, 0])[:, None, None]
    source_y = turned_y * scale_y[:, None, None] + ((1 - scale_y) * shift[:, 1])[:, None, None]
    rows = (source_y + 1.0) * (height / 2) - 0.5
    columns = (source_x + 1.0) * (width / 2) - 0.5
    if how.outside == "edge":
        rows, columns = jnp.clip(rows, 0.0, height - 1.0), jnp.clip(columns, 0.0, width - 1.0)
    return _bilinear(images, rows, columns)


def _smooth_noise(key: jax.Array, batch: int, height: int, width: int) -> jax.Array:
    """Returns [batch, height, width, 2] normal noise that changes over about a fourth of the side."""
    coarse = jax.random.normal(key, (batch, 5, 5, 2))
    smooth: jax.Array = jax.image.resize(coarse, (batch, height, width, 2), "cubic")
    return smooth


def _centres(size: int) -> jax.Array:
    return (jnp.arange(size) + 0.5) * (2.0 / size) - 1.0


def _bilinear(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns the pictures sampled at fractional places; outside is black.

    Args:
        images: [batch, height, width, 3] float32.
        rows: [batch, height, width] float32, row in the picture.
        columns: [batch, height, width] float32, column in the picture.
    """
    batch, height, width, channels = images.shape
    # A row and column of black around the picture, so that its edge fades within one pixel.
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    flat = padded.reshape(batch, (height + 2) * (width + 2), channels)
    rows, columns = jnp.clip(rows + 1, 0.0, height + 0.999), jnp.clip(columns + 1, 0.0, width + 0.999)
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    place = (top.astype(jnp.int32) * (width + 2) + left.astype(jnp.int32)).reshape(batch, -1)

    def corner(offset: int) -> jax.Array:
        index = (place + offset)[..., None]
        return jnp.take_along_axis(flat, index, axis=1).reshape(batch, height, width, channels)

    upper = corner(0) * (1 - right) + corner(1) * right
    lower = corner(width + 2) * (1 - right) + corner(width + 3) * right
    return upper * (1 - down) + lower * down


def _recolour(key: jax.Array, pixels: jax.Array, how: Augmentation) -> jax.Array:
    """Changes the colours of some pictures, and takes them from some."""
    keys = jax.random.split(key, 6)
    batch = len(pixels)
    low, high = 1.0 - how.strength, 1.0 + how.strength

    def factor(one: jax.Array) -> jax.Array:
        return jax.random.uniform(one, (batch, 1, 1), minval=low, maxval=high)

    balance = jax.random.uniform(keys[3], (batch, 3, 1), minval=0.9, maxval=1.1)
    by = ColourFactors(factor(keys[0]), factor(keys[1]), factor(keys[2]), balance)
    changes = jax.random.bernoulli(keys[4], how.colour, (batch, 1, 1))
    matrix, offset = colour_change(pixels, by, changes=changes)
    to_grey = jnp.broadcast_to(jnp.array(LUMA), (3, 3))
    greys = jax.random.bernoulli(keys[5], how.grey, (batch, 1, 1))
    matrix, offset = jnp.where(greys, to_grey @ matrix, matrix), jnp.where(greys, to_grey @ offset, offset)
    return recoloured(pixels, matrix, offset)


def _blur(key: jax.Array, pixels: jax.Array, how: Augmentation) -> jax.Array:
    """Blurs by a matrix product along each axis: a Gaussian of 0.4 to 1.6 % of the side."""
    which, width = jax.random.split(key)
    batch, height, columns, _ = pixels.shape
    share = jax.random.uniform(width, (batch, 1, 1), minval=0.004, maxval=0.016)
    blurred = jnp.einsum("bij,bjwc->biwc", _gaussian(height, share * height), pixels)
    blurred = jnp.einsum("bij,bhjc->bhic", _gaussian(columns, share * columns), blurred)
    return _some(which, how.blur, blurred, pixels)


def _gaussian(size: int, sigma: jax.Array) -> jax.Array:
    """Returns [batch, size, size] float32 whose rows weigh the neighbours of each place and sum to 1."""
    apart = jnp.arange(size)[:, None] - jnp.arange(size)[None, :]
    weights = jnp.exp(-0.5 * jnp.square(apart / sigma))
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _compress(key: jax.Array, pixels: jax.Array, how: Augmentation) -> jax.Array:
    """Rounds the cosine coefficients of 8x8 blocks to multiples of JPEG's table, at quality 10 to 50.

    Every channel is rounded with the luminance table: the noise and the blocks of a JPEG, not its colour bleeding.
    """
    which, quality = jax.random.split(key)
    batch, height, width, channels = pixels.shape
    # libjpeg's scale for qualities below 50: 5000 / quality percent of the table.
    percent = 5000.0 / jax.random.uniform(quality, (batch, 1, 1, 1, 1, 1), minval=10.0, maxval=50.0)
    steps = jnp.maximum(jnp.array(_JPEG_TABLE)[None, None, :, None, :, None] * percent / 100.0, 1.0)
    basis = jnp.array(_cosine_basis())
    blocks = pixels.reshape(batch, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, channels) - 128.0
    coefficients = jnp.einsum("ui,vj,brisjc->brusvc", basis, basis, blocks)
    rounded = jnp.round(coefficients / steps) * steps
    blocks = jnp.einsum("ui,vj,brusvc->brisjc", basis, basis, rounded)
    return _some(which, how.jpeg, blocks.reshape(pixels.shape) + 128.0, pixels)


def _cosine_basis() -> np.ndarray:
    """Returns the orthonormal cosine transform of 8 values, [frequency, place] float32."""
    frequency, place = np.arange(_BLOCK)[:, None], np.arange(_BLOCK)[None, :]
    basis = np.cos((2 * place + 1) * frequency * np.pi / (2 * _BLOCK)) * np.sqrt(2 / _BLOCK)
    basis[0] /= np.sqrt(2)
    orthonormal: np.ndarray = basis.astype(np.float32)
    return orthonormal


def _some(key: jax.Array, share: float, changed: jax.Array, pixels: jax.Array) -> jax.Array:
    """Returns `changed` for a random share of the batch and `pixels` for the rest."""
    chosen = jax.random.bernoulli(key, share, (len(pixels), 1, 1, 1))
    return jnp.where(chosen, changed, pixels)
