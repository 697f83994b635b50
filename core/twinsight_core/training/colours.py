"""The colour change that random views share: one 3x3 matrix and one offset a picture."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness: ITU-R BT.601, as JPEG uses it."""


class ColourFactors(NamedTuple):
    """By how much a picture's colours change; 1 leaves each as it is.

    Attributes:
        brightness: [batch, 1, 1] float32.
        contrast: [batch, 1, 1] float32, around the picture's mean brightness.
        saturation: [batch, 1, 1] float32.
        balance: [batch, 3, 1] float32, of each channel.
    """

    brightness: jax.Array
    contrast: jax.Array
    saturation: jax.Array
    balance: jax.Array


def colour_change(pixels: jax.Array, by: ColourFactors, *, changes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the matrix [batch, 3, 3] and the offset [batch, 3, 1] that are the product of the four changes.

    Args:
        pixels: [batch, height, width, 3] float32, RGB, 0..255.
        by: how much.
        changes: [batch, 1, 1] bool, which pictures change at all.
    """
    luma = jnp.array(LUMA)
    mean = (jnp.mean(pixels, axis=(1, 2)) @ luma)[:, None, None] * by.brightness
    to_grey = jnp.broadcast_to(luma, (3, 3))
    mixed = by.saturation * jnp.eye(3) + (1.0 - by.saturation) * to_grey
    matrix = by.balance * mixed * by.contrast * by.brightness
    offset = by.balance * (1.0 - by.contrast) * mean
    return jnp.where(changes, matrix, jnp.eye(3)), jnp.where(changes, offset, 0.0)


def recoloured(pixels: jax.Array, matrix: jax.Array, offset: jax.Array) -> jax.Array:
    """Returns the pixels, each channel a mixture of the old ones; see `colour_change`."""
    return jnp.einsum("bhwc,bdc->bhwd", pixels, matrix) + offset[:, None, None, :, 0]
