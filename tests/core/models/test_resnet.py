from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.resnet import ResidualBlock, ResNet

RESNET50 = ResNetConfig(block="bottleneck", depths=(3, 4, 6, 3))


def parameters(config: ResNetConfig) -> int:
    """Trainable numbers of a classifier of 1,000 classes."""
    network = nnx.eval_shape(
        lambda: Classifier(config=ClassifierConfig(backbone=config, classes=1000), rngs=nnx.Rngs(0))
    )
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


def test_the_known_networks_have_torchvision_s_number_of_parameters() -> None:
    assert parameters(ResNetConfig()) == 11_689_512
    assert parameters(ResNetConfig(depths=(3, 4, 6, 3))) == 21_797_672
    assert parameters(RESNET50) == 25_557_032
    assert parameters(ResNetConfig(block="bottleneck", depths=(3, 4, 23, 3))) == 44_549_160


@pytest.mark.parametrize(("stem", "sides"), [("imagenet", (12, 6)), ("small", (45, 23))])
def test_each_stage_s_map_has_its_stride_and_channels(stem: str, sides: tuple[int, int]) -> None:
    config = ResNetConfig(
        block="bottleneck", depths=(1, 2), widths=(4, 6), stem="imagenet" if stem == "imagenet" else "small"
    )
    network = nnx.eval_shape(lambda: ResNet(config=config, rngs=nnx.Rngs(0)))
    maps = nnx.eval_shape(lambda network: network.stages(jnp.zeros((2, 45, 45, 3))), network)
    assert [one.shape for one in maps] == [(2, side, side, out) for side, out in zip(sides, (16, 24), strict=True)]
    assert network.stage_channels == (16, 24)
    assert network.stage_strides == ((4, 8) if stem == "imagenet" else (1, 2))


def test_a_block_whose_layers_give_nothing_passes_what_is_above_zero() -> None:
    block = ResidualBlock(channels_in=3, width=3, channels_out=3, bottleneck=False, stride=1, rngs=nnx.Rngs(0))
    block.layers[-1].norm.scale = nnx.Param(jnp.zeros(3))
    block.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 3)), jnp.float32)
    np.testing.assert_array_equal(block(x), jnp.maximum(x, 0))


def test_grey_takes_the_mean_of_the_channels() -> None:
    config = ResNetConfig(depths=(1,), widths=(4,), stem="small", colour="grey")
    network = drawn(partial(ResNet, config=config), seed=0)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    coloured = jnp.array([30, 60, 90], jnp.uint8) * jnp.ones((1, 6, 6, 1), jnp.uint8)
    np.testing.assert_allclose(network(coloured), network(jnp.full((1, 6, 6, 3), 60, jnp.uint8)), atol=1e-5)
