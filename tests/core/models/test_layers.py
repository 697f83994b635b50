from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twinsight_core.models.layers import (
    Padding,
    depthwise,
    depthwise_native,
    depthwise_shifted,
    l2_normalise,
    normalise_pixels,
    relu6,
    same_padding,
)


def test_pixels_map_to_minus_one_to_one() -> None:
    images = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(normalise_pixels(jnp.asarray(images))[0, 0, 0], [-1.0, -0.6, 1.0], atol=1e-6)


def test_relu6_clips_at_both_ends() -> None:
    np.testing.assert_array_equal(relu6(jnp.array([-1.0, 0.0, 3.5, 6.0, 9.0])), [0.0, 0.0, 3.5, 6.0, 6.0])


def test_normalised_rows_have_length_one_and_zeros_stay_zeros() -> None:
    rows = l2_normalise(jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-6, 0.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "stride", "expected"),
    [(4, 1, (1, 1)), (4, 2, (0, 1)), (5, 2, (1, 1)), (1, 1, (1, 1)), (1, 2, (1, 1)), (2, 2, (0, 1))],
)
def test_same_padding_puts_the_odd_zero_after(size: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, window=3, stride=stride) == expected


def test_depthwise_sums_the_window_of_each_channel_alone() -> None:
    x = jnp.arange(9.0).reshape(1, 3, 3, 1) * jnp.array([1.0, 10.0])
    ones = jnp.ones((3, 3, 2))
    # By hand: the corner sees 0, 1, 3, 4; the centre sees all nine.
    for way in (depthwise_shifted, depthwise_native):
        out = way(x, ones, stride=1)
        np.testing.assert_allclose(out[0, 0, 0], [8.0, 80.0])
        np.testing.assert_allclose(out[0, 1, 1], [36.0, 360.0])
    # Stride 2 on three rows pads one on each side: the windows start at -1 and 1.
    np.testing.assert_allclose(depthwise_shifted(x, ones, stride=2)[0, :, :, 0], [[8.0, 12.0], [20.0, 24.0]])


def test_even_padding_starts_half_a_window_before_the_map() -> None:
    x, ones = jnp.arange(16.0).reshape(1, 4, 4, 1), jnp.ones((3, 3, 1))
    # By hand: the windows start at -1 and 1, and the last row and column of zeros is in none of them.
    for way in (depthwise_shifted, depthwise_native):
        np.testing.assert_allclose(way(x, ones, stride=2, padding="even")[0, :, :, 0], [[10.0, 24.0], [51.0, 90.0]])


@pytest.mark.parametrize("padding", ["same", "even"])
@pytest.mark.parametrize(
    ("height", "width", "stride"), [(5, 4, 1), (5, 4, 2), (4, 7, 2), (1, 2, 2)]
)  # odd and even sides, and sides below the window
def test_both_ways_agree_in_value_and_gradient(height: int, width: int, stride: int, padding: Padding) -> None:
    rng, channels = np.random.default_rng(0), 3
    x = jnp.asarray(rng.normal(size=(2, height, width, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, channels)), jnp.float32)
    pulled = jnp.asarray(rng.normal(size=(2, -(-height // stride), -(-width // stride), channels)), jnp.float32)

    @partial(jax.jit, static_argnums=0)
    def value_and_pull(
        way: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, kernel: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        value, pull = jax.vjp(way, x, kernel)
        return value, pull(pulled)

    native, native_gradients = value_and_pull(partial(depthwise_native, stride=stride, padding=padding), x, kernel)
    chosen, chosen_gradients = value_and_pull(lambda x, kernel: depthwise(x, kernel, stride, padding), x, kernel)
    np.testing.assert_allclose(chosen, native, atol=1e-5)
    for one, other in zip(chosen_gradients, native_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_choice_of_platform_is_made_when_lowering() -> None:
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return depthwise(x, kernel, 1)

    x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2))
    assert "convolution" not in jax.jit(convolve).trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()
    assert "convolution" in jax.jit(convolve).trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
