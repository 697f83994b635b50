from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.models.configs.mobilefacenet import MobileFaceNetConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.folding import ChannelBias, fold_batch_norm
from twinsight_core.models.mobilefacenet import MobileFaceNet
from twinsight_core.models.mobilenet import SeparableBlock
from twinsight_core.models.resnet import ConvNorm, ResNet


def with_statistics(network: nnx.Module) -> None:
    """Gives every batch norm statistics and weights that matter."""
    rng = np.random.default_rng(0)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.BatchNorm):
            shape = module.mean.shape
            module.mean = nnx.BatchStat(jnp.asarray(rng.normal(size=shape), jnp.float32))
            module.var = nnx.BatchStat(jnp.asarray(rng.uniform(0.5, 2.0, shape), jnp.float32))
            module.scale = nnx.Param(jnp.asarray(rng.uniform(0.5, 1.5, shape), jnp.float32))
            module.bias = nnx.Param(jnp.asarray(rng.normal(size=shape), jnp.float32))


def norms(network: nnx.Module) -> int:
    return sum(isinstance(module, nnx.BatchNorm) for _, module in nnx.iter_modules(network))


def separable() -> SeparableBlock:
    return SeparableBlock(channels_in=3, channels_out=5, stride=2, rngs=nnx.Rngs(0))


def resnet() -> ResNet:
    return drawn(partial(ResNet, config=ResNetConfig(block="bottleneck", depths=(1, 1), widths=(4, 6))), seed=0)


def mobilefacenet() -> MobileFaceNet:
    config = MobileFaceNetConfig(dimension=8, map_rows=2, map_columns=2)
    return drawn(partial(MobileFaceNet, config=config), seed=0)


def test_a_folded_norm_is_worked_by_hand() -> None:
    layer = ConvNorm(1, 2, window=1, stride=1, rngs=nnx.Rngs(0))
    layer.conv.kernel = nnx.Param(jnp.array([3.0, 5.0]).reshape(1, 1, 1, 2))
    layer.norm.epsilon = 0.0
    layer.norm.mean = nnx.BatchStat(jnp.array([1.0, 2.0]))
    layer.norm.var = nnx.BatchStat(jnp.array([4.0, 25.0]))
    layer.norm.scale = nnx.Param(jnp.array([6.0, 10.0]))
    layer.norm.bias = nnx.Param(jnp.array([0.5, -1.0]))
    folded = fold_batch_norm(layer)
    # Factors 6 / sqrt(4) and 10 / sqrt(25); what is left to add 0.5 - 3 * 1 and -1 - 2 * 2.
    np.testing.assert_allclose(np.ravel(folded.conv.kernel[...]), [9.0, 10.0])
    assert {type(module) for _, module in nnx.iter_modules(folded)} == {ConvNorm, nnx.Conv, ChannelBias}
    # By hand for a pixel of 1: 9 - 2.5 and 10 - 5.
    np.testing.assert_allclose(np.ravel(folded(jnp.ones((1, 1, 1, 1)))), [6.5, 5.0])


@pytest.mark.parametrize("build", [separable, resnet, mobilefacenet])
def test_a_folded_network_has_no_norm_left_and_answers_the_same(
    build: Callable[[], SeparableBlock | ResNet | MobileFaceNet],
) -> None:
    network = build()
    with_statistics(network)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3)), jnp.float32)
    run = nnx.jit(lambda network, images: network(images))
    before = np.asarray(run(network, images))
    folded = fold_batch_norm(network)
    assert norms(folded) == 0
    np.testing.assert_allclose(run(folded, images), before, rtol=1e-4, atol=1e-4)
    # The network that was folded is as it was.
    assert norms(network) > 0
    np.testing.assert_array_equal(run(network, images), before)


def test_a_network_whose_weights_are_numpy_s_is_not_changed_by_folding_its_copy() -> None:
    layer = ConvNorm(1, 2, window=1, stride=1, rngs=nnx.Rngs(0))
    layer.norm.var = nnx.BatchStat(jnp.array([4.0, 4.0]))
    graph, state = nnx.split(layer)
    shared = nnx.merge(graph, jax.tree.map(np.array, state))
    before = np.array(shared.conv.kernel[...])
    fold_batch_norm(shared)
    np.testing.assert_array_equal(shared.conv.kernel[...], before)


def test_a_network_in_training_is_folded_as_in_evaluation_and_stays_in_training() -> None:
    layer = ConvNorm(3, 2, window=3, stride=1, rngs=nnx.Rngs(0))
    with_statistics(layer)
    layer.train()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 3)), jnp.float32)
    folded = fold_batch_norm(layer)(x)
    assert not layer.norm.use_running_average
    layer.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    np.testing.assert_allclose(folded, layer(x), atol=1e-4)


class Lone(nnx.Module):
    """A batch norm that belongs to no layer, and one after a layer with a bias."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first_norm = nnx.BatchNorm(3, rngs=rngs)
        self.inner = nnx.Linear(3, 2, rngs=rngs)
        self.inner_norm = nnx.BatchNorm(2, use_scale=False, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y: jax.Array = self.inner_norm(self.inner(self.first_norm(x)))
        return y


def test_a_norm_without_a_layer_stays_and_a_layer_s_own_bias_is_folded_too() -> None:
    network = Lone(nnx.Rngs(0))
    network.inner.bias = nnx.Param(jnp.array([1.0, -2.0]))
    network.inner_norm.mean = nnx.BatchStat(jnp.array([0.5, 0.25]))
    network.inner_norm.var = nnx.BatchStat(jnp.array([4.0, 0.25]))
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    folded = fold_batch_norm(network)
    assert norms(folded) == 1
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    np.testing.assert_allclose(folded(x), network(x), rtol=1e-4, atol=1e-5)


def test_a_folded_layer_compiles_to_fewer_operations() -> None:
    layer = ConvNorm(3, 8, window=3, stride=1, rngs=nnx.Rngs(0))
    layer.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped

    def operations(network: ConvNorm) -> int:
        graph, state = nnx.split(network)
        lowered = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, jnp.zeros((1, 8, 8, 3)))
        return lowered.as_text().count("stablehlo.")

    assert operations(fold_batch_norm(layer)) < operations(layer)
