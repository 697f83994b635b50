from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.exporting.portable import Pointwise, portable_network
from twinsight_core.models.mobilenet import DepthwiseConv
from twinsight_core.packages import ModelPackage


@pytest.mark.parametrize("architecture", ["siamese", "mobilefacenet"])
def test_a_portable_network_has_native_convolutions_and_the_same_answers(
    packaged: Callable[[str], ModelPackage], architecture: str
) -> None:
    network = packaged(architecture).build()
    portable = portable_network(network)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    run = nnx.jit(lambda network, images: network(images))
    np.testing.assert_allclose(run(portable, images), run(network, images), atol=1e-5)
    kinds = {type(module) for _, module in nnx.iter_modules(portable)}
    assert not kinds & {DepthwiseConv, nnx.BatchNorm}
    assert any(isinstance(module, DepthwiseConv) for _, module in nnx.iter_modules(network))


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_pointwise_layer_does_what_the_linear_one_does(use_bias: bool) -> None:
    linear = nnx.Linear(3, 2, use_bias=use_bias, bias_init=nnx.initializers.ones_init(), rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 5, 3)), jnp.float32)
    layer = Pointwise(linear)
    np.testing.assert_allclose(layer(x), linear(x), atol=1e-6)
    np.testing.assert_array_equal(layer(x[:, 0, 0]), linear(x[:, 0, 0]))
