"""The layers of the networks, each with the lowering that is fastest on its platform.

XLA's CPU backend runs a grouped convolution about ten times slower than the arithmetic needs (75 ms per image against
7.8 ms for the whole of MobileNetV1 0.75 at 224 px). There a depthwise convolution is nine shifted multiply-adds, which
XLA fuses into one loop. On NVIDIA's GPUs the same is done for strides above 1 (on an H200 in bfloat16, stride 2 takes
half the native convolution's time, stride 1 a quarter more). Elsewhere it is the native convolution. All give the same
numbers up to rounding.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

Padding = Literal["same", "even"]
"""Zeros around a map: "same" as TensorFlow pads (see `same_padding`), "even" half a window on all sides, as PyTorch."""


def normalise_pixels(images: jax.Array) -> jax.Array:
    """Returns pixels in the range that the networks are trained on.

    Args:
        images: [batch, height, width, 3] uint8 (or float in the same range), RGB, 0..255.

    Returns:
        [batch, height, width, 3] float32, -1..1.
    """
    return images.astype(jnp.float32) / 127.5 - 1.0


def relu6(x: jax.Array) -> jax.Array:
    """Returns `x` clipped to 0..6.

    Source: Krizhevsky, "Convolutional Deep Belief Networks on CIFAR-10", 2010.
    """
    return jnp.clip(x, 0.0, 6.0)


def l2_normalise(x: jax.Array) -> jax.Array:
    """Returns the rows of `x` at length 1; a row of zeros stays zeros.

    Args:
        x: [..., dimension] float32.
    """
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def same_padding(size: int, *, window: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and after an axis of `size` so that ceil(size / stride) windows fit.

    Where the sum is odd the extra zero goes after, as in TensorFlow and Keras.
    """
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def _zeros(padding: Padding, size: int, *, window: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and after an axis of `size`; either way ceil(size / stride) windows fit."""
    return (window // 2, window // 2) if padding == "even" else same_padding(size, window=window, stride=stride)


def depthwise_shifted(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding = "same") -> jax.Array:
    """Convolves each channel with its own kernel as a sum of shifted products.

    Args:
        x: [batch, height, width, channels] float32 or bfloat16; the sum is float32 either way.
        kernel: [rows, columns, channels] of the same type; odd sides for "even" padding.
        stride: step of the window in pixels.
        padding: zeros around the map.

    Returns:
        [batch, ceil(height / stride), ceil(width / stride), channels] in the type of `x`.
    """
    rows, columns, channels = kernel.shape
    batch, height, width, _ = x.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    pad_y = _zeros(padding, height, window=rows, stride=stride)
    pad_x = _zeros(padding, width, window=columns, stride=stride)
    padded = jnp.pad(x, ((0, 0), pad_y, pad_x, (0, 0)))
    total = jnp.zeros((batch, out_height, out_width, channels), jnp.float32)
    for i in range(rows):
        for j in range(columns):
            window = jax.lax.slice(
                padded,
                (0, i, j, 0),
                (batch, i + (out_height - 1) * stride + 1, j + (out_width - 1) * stride + 1, channels),
                (1, stride, stride, 1),
            )
            total = total + window.astype(jnp.float32) * kernel[i, j].astype(jnp.float32)
    return total.astype(x.dtype)


def depthwise_native(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding = "same") -> jax.Array:
    """Does what `depthwise_shifted` does with the platform's own grouped convolution."""
    rows, columns, _ = kernel.shape
    _, height, width, _ = x.shape
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        window_strides=(stride, stride),
        padding=(
            _zeros(padding, height, window=rows, stride=stride),
            _zeros(padding, width, window=columns, stride=stride),
        ),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding = "same") -> jax.Array:
    """Convolves each channel with its own kernel by the faster way of the platform it is lowered for.

    Args:
        x: [batch, height, width, channels] float32 or bfloat16.
        kernel: [rows, columns, channels] of the same type; odd sides for "even" padding.
        stride: step of the window in pixels.
        padding: zeros around the map.

    Returns:
        [batch, ceil(height / stride), ceil(width / stride), channels] in the type of `x`.
    """
    shifted = partial(depthwise_shifted, stride=stride, padding=padding)
    native = partial(depthwise_native, stride=stride, padding=padding)
    convolved: jax.Array = jax.lax.platform_dependent(
        x, kernel, cpu=shifted, cuda=native if stride == 1 else shifted, default=native
    )
    return convolved


# Differentiating through platform_dependent keeps what both ways need for their gradients, a quarter more time on a
# CPU; so the choice is made anew for the gradient.
def _depthwise_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise(x, kernel, stride, padding), (x, kernel)


def _depthwise_backward(
    stride: int, padding: Padding, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    shifted = partial(depthwise_shifted, stride=stride, padding=padding)
    native = partial(depthwise_native, stride=stride, padding=padding)
    pulled: tuple[jax.Array, jax.Array] = jax.lax.platform_dependent(
        x,
        kernel,
        gradient,
        cpu=lambda x, kernel, gradient: jax.vjp(shifted, x, kernel)[1](gradient),
        default=lambda x, kernel, gradient: jax.vjp(native, x, kernel)[1](gradient),
    )
    return pulled


depthwise.defvjp(_depthwise_forward, _depthwise_backward)
