from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.importing.filling import (
    KERAS_DEPTHWISE,
    KERAS_POINTWISE,
    TORCH_CONV,
    TORCH_DEPTHWISE,
    TORCH_LINEAR,
    TORCH_POINTWISE,
    Layout,
    Place,
    Source,
    fill,
    shape_of,
)


@pytest.mark.parametrize(
    ("layout", "stored", "wanted", "index", "same"),
    [
        (TORCH_CONV, (5, 4, 3, 2), (3, 2, 4, 5), (4, 3, 2, 1), (2, 1, 3, 4)),
        (TORCH_DEPTHWISE, (4, 1, 3, 2), (3, 2, 4), (3, 0, 2, 1), (2, 1, 3)),
        (TORCH_POINTWISE, (3, 2, 1, 1), (2, 3), (2, 1, 0, 0), (1, 2)),
        (TORCH_LINEAR, (3, 2), (2, 3), (2, 1), (1, 2)),
        (KERAS_DEPTHWISE, (3, 2, 4, 1), (3, 2, 4), (2, 1, 3, 0), (2, 1, 3)),
        (KERAS_POINTWISE, (1, 1, 2, 3), (2, 3), (0, 0, 1, 2), (1, 2)),
    ],
)
def test_a_layout_moves_each_value_to_its_place(
    layout: Layout, stored: tuple[int, ...], wanted: tuple[int, ...], index: tuple[int, ...], same: tuple[int, ...]
) -> None:
    tensor = np.arange(np.prod(stored)).reshape(stored)
    read = layout.read(tensor)
    assert read.shape == wanted
    assert layout.shape(wanted) == stored
    assert read[same] == tensor[index]


def source(place: Place) -> Source:
    return Source("weight", TORCH_LINEAR) if place == ("kernel",) else Source("bias")


GOOD = {"weight": np.array([[1.0, 2.0]], np.float32), "bias": np.array([3.0], np.float32)}


def test_a_network_takes_the_values_of_the_file() -> None:
    network = nnx.eval_shape(lambda: nnx.Linear(2, 1, rngs=nnx.Rngs(0)))
    fill(network, GOOD | {"steps": np.array(3)}, source, ignored=lambda name: name == "steps")
    np.testing.assert_array_equal(network(jnp.array([[10.0, 100.0]])), [[213.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.zeros((1, 3), np.float32)}, r"`weight` has the shape \(1, 3\); it must be \(1, 2\)"),
        ({"bias": np.array([1])}, r"`bias` is int64; it must be floating-point"),
        ({"bias": np.array([np.nan], np.float32)}, r"`bias` holds a value that is not finite"),
        ({"scale": np.zeros(4, np.float32)}, r"`scale` with the shape \(4,\) is not part of the architecture"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change: dict[str, np.ndarray], message: str) -> None:
    network = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    before = np.array(network.kernel[...])
    with pytest.raises(ValueError, match=rf"^the tensor {message}\.$"):
        fill(network, GOOD | change, source)
    np.testing.assert_array_equal(network.kernel[...], before)


def test_a_missing_tensor_is_named_with_the_shape_it_must_have() -> None:
    network = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"^the tensor `weight` is missing; it must have the shape \(1, 2\)\.$"):
        fill(network, {"bias": GOOD["bias"]}, source)


def test_the_shape_that_a_size_is_read_from_is_checked() -> None:
    assert shape_of(GOOD, "weight", rank=2) == (1, 2)
    with pytest.raises(ValueError, match=r"^the tensor `head` is missing\.$"):
        shape_of(GOOD, "head", rank=2)
    with pytest.raises(ValueError, match=r"^the tensor `bias` has the shape \(1,\); it must have 4 axes\.$"):
        shape_of(GOOD, "bias", rank=4)


def test_a_negative_variance_is_named() -> None:
    network = nnx.BatchNorm(1, use_running_average=True, rngs=nnx.Rngs(0))
    tensors = {name: np.array([-0.5], np.float32) for name in ("scale", "bias", "mean", "var")}
    with pytest.raises(ValueError, match=r"^the tensor `var` holds a negative variance\.$"):
        fill(network, tensors, lambda place: Source(str(place[-1])))
    fill(network, tensors | {"var": np.array([0.5], np.float32)}, lambda place: Source(str(place[-1])))
