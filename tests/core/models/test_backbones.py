import jax.numpy as jnp
import pytest
from flax import nnx

from twinsight_core.models.backbones import build_backbone
from twinsight_core.models.configs.backbones import BackboneConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.resnet import STEMS, ResNetConfig

SIDE = 64
RESNETS = [ResNetConfig(depths=(1, 1, 1), widths=(8, 8, 16), stem=stem) for stem in STEMS]


@pytest.mark.parametrize("config", [MobileNetConfig(0.25), ResNetConfig(block="bottleneck"), *RESNETS])
def test_the_maps_have_the_channels_and_strides_that_are_stated(config: BackboneConfig) -> None:
    backbone = nnx.eval_shape(lambda: build_backbone(config, rngs=nnx.Rngs(0)))
    maps = nnx.eval_shape(lambda backbone: backbone.stages(jnp.zeros((2, SIDE, SIDE, 3))), backbone)
    assert backbone.stage_strides == config.strides
    expected = [
        (2, SIDE // stride, SIDE // stride, channels)
        for stride, channels in zip(backbone.stage_strides, backbone.stage_channels, strict=True)
    ]
    assert [one.shape for one in maps] == expected
    assert backbone.channels == backbone.stage_channels[-1]
