"""MobileNetV1: a first convolution and thirteen blocks of a depthwise and a pointwise convolution.

Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017
(arXiv:1704.04861), table 1; batch-norm epsilon, ReLU6 and padding as in Keras Applications, so that its weights fit.
"""

from __future__ import annotations

import jax
from flax import nnx

from twinsight_core.models.configs.mobilenet import BLOCKS, MobileNetConfig
from twinsight_core.models.layers import Padding, depthwise, normalise_pixels, relu6

STEM_CHANNELS = 32
# Keras Applications' value; framework defaults of 1e-5 change the features.
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.99


def _batch_norm(channels: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, epsilon=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM, rngs=rngs)


class DepthwiseConv(nnx.Module):
    """One 3x3 kernel a channel, no bias.

    Args:
        channels: channels in and out.
        stride: 1 or 2.
        padding: zeros around the map.
        rngs: source of the first weights.
    """

    def __init__(self, *, channels: int, stride: int, padding: Padding = "same", rngs: nnx.Rngs) -> None:
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal", in_axis=(0, 1), out_axis=2)
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, channels)))
        self.stride = stride
        self.padding: Padding = padding

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, ceil(height / stride), ceil(width / stride), channels] in the type of `x`."""
        return depthwise(x, self.kernel[...].astype(x.dtype), self.stride, self.padding)


class SeparableBlock(nnx.Module):
    """A depthwise convolution in space, then a pointwise one over channels; each with batch norm and ReLU6.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        stride: step of the depthwise convolution.
        rngs: source of the first weights.
    """

    def __init__(self, *, channels_in: int, channels_out: int, stride: int, rngs: nnx.Rngs) -> None:
        self.depthwise = DepthwiseConv(channels=channels_in, stride=stride, rngs=rngs)
        self.depthwise_norm = _batch_norm(channels_in, rngs=rngs)
        # A 1x1 convolution is a matrix product over the last axis.
        self.pointwise = nnx.Linear(
            channels_in, channels_out, use_bias=False, kernel_init=nnx.initializers.he_normal(), rngs=rngs
        )
        self.pointwise_norm = _batch_norm(channels_out, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, ceil(height / stride), ceil(width / stride), channels_out] float32, 0..6."""
        x = relu6(self.depthwise_norm(self.depthwise(x)))
        return relu6(self.pointwise_norm(self.pointwise(x)))


class MobileNetV1(nnx.Module):
    """The convolutional part, without pooling and classifier.

    Args:
        width_multiplier: factor on every layer's channels, above 0.
        rngs: source of the first weights.

    Attributes:
        channels: channels of the last map.
        stage_channels: channels of the maps of `stages`.
        stage_strides: strides of the maps of `stages`: 2, 4, 8, 16 and 32.
    """

    def __init__(self, *, width_multiplier: float = 1.0, rngs: nnx.Rngs) -> None:
        channels = int(STEM_CHANNELS * width_multiplier)
        self.stem = nnx.Conv(
            3,
            channels,
            kernel_size=(3, 3),
            strides=2,
            padding="SAME",
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        self.stem_norm = _batch_norm(channels, rngs=rngs)
        blocks, ends = [], [channels]
        for width, stride in BLOCKS:
            channels_out = int(width * width_multiplier)
            blocks.append(SeparableBlock(channels_in=channels, channels_out=channels_out, stride=stride, rngs=rngs))
            if stride == 1:
                ends[-1] = channels_out
            else:
                ends.append(channels_out)
            channels = channels_out
        self.blocks = nnx.List(blocks)
        self.channels = channels
        self.stage_channels = tuple(ends)
        self.stage_strides = MobileNetConfig(width_multiplier=width_multiplier).strides

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the last map.

        Args:
            images: [batch, height, width, 3] uint8 (or float in the same range), RGB, 0..255. Sides that are multiples
                of 32 are padded as Keras pads.

        Returns:
            [batch, ceil(height / 32), ceil(width / 32), channels] float32, 0..6.
        """
        return self.stages(images)[-1]

    def stages(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the last map of each size, finest first; see `Backbone`."""
        maps = [relu6(self.stem_norm(self.stem(normalise_pixels(images))))]
        for block, (_, stride) in zip(self.blocks, BLOCKS, strict=True):
            y = block(maps[-1])
            if stride == 1:
                maps[-1] = y
            else:
                maps.append(y)
        return tuple(maps)
