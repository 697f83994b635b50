"""Residual networks: stages of blocks that add to what they are given.

With the stem "imagenet" it is the network of the paper, with paddings and names as in torchvision, so that its weights
fit; with the stems "small" and "strided" it keeps more of the resolution at the start, for inputs of some tens of
pixels.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5 and table 1; the stride of a
bottleneck is in its 3x3 convolution, as in torchvision ("ResNet v1.5").
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from twinsight_core.models.configs.resnet import STEM_LAYOUTS, ResNetConfig

# torchvision's values.
BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
EXPANSION = 4
"""Channels out of a bottleneck for each inside."""


class ConvNorm(nnx.Module):
    """A convolution without bias, padded alike on all sides, and batch norm.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        window: side of the kernel in pixels, odd.
        stride: step of the kernel in pixels.
        rngs: source of the first weights.
    """

    def __init__(self, channels_in: int, channels_out: int, *, window: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(
            channels_in,
            channels_out,
            kernel_size=(window, window),
            strides=stride,
            padding=window // 2,
            use_bias=False,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "truncated_normal"),
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(channels_out, epsilon=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, ceil(height / stride), ceil(width / stride), channels_out] float32."""
        y: jax.Array = self.norm(self.conv(x))
        return y


class ResidualBlock(nnx.Module):
    """Convolutions whose result is added to their input, then ReLU.

    Args:
        channels_in: channels of the input.
        width: channels inside.
        channels_out: channels of the output: `width`, or for a bottleneck four times as many.
        bottleneck: 1x1, 3x3 and 1x1 convolutions instead of two of 3x3.
        stride: step of the block.
        rngs: source of the first weights.
    """

    def __init__(
        self, *, channels_in: int, width: int, channels_out: int, bottleneck: bool, stride: int, rngs: nnx.Rngs
    ) -> None:
        if bottleneck:
            layers = [
                ConvNorm(channels_in, width, window=1, stride=1, rngs=rngs),
                ConvNorm(width, width, window=3, stride=stride, rngs=rngs),
                ConvNorm(width, channels_out, window=1, stride=1, rngs=rngs),
            ]
        else:
            layers = [
                ConvNorm(channels_in, width, window=3, stride=stride, rngs=rngs),
                ConvNorm(width, channels_out, window=3, stride=1, rngs=rngs),
            ]
        self.layers = nnx.List(layers)
        same = stride == 1 and channels_in == channels_out
        self.shortcut = None if same else ConvNorm(channels_in, channels_out, window=1, stride=stride, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, ceil(height / stride), ceil(width / stride), channels_out] float32, at least 0."""
        y = x
        for layer in self.layers[:-1]:
            y = jax.nn.relu(layer(y))
        y = self.layers[-1](y)
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
    """The convolutional part, without pooling and classifier.

    Args:
        config: what it is made of.
        rngs: source of the first weights.

    Attributes:
        channels: channels of the last map.
        stage_channels: channels of each stage's map.
        stage_strides: stride of each stage's map.
    """

    def __init__(self, *, config: ResNetConfig, rngs: nnx.Rngs) -> None:
        self._config = config
        bottleneck = config.block == "bottleneck"
        channels = config.widths[0]
        colours = 1 if config.colour == "grey" else 3
        window, stride, _ = STEM_LAYOUTS[config.stem]
        self.stem = ConvNorm(colours, channels, window=window, stride=stride, rngs=rngs)
        blocks, outs = [], []
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            out = width * EXPANSION if bottleneck else width
            for number in range(depth):
                block = ResidualBlock(
                    channels_in=channels,
                    width=width,
                    channels_out=out,
                    bottleneck=bottleneck,
                    stride=2 if stage and not number else 1,
                    rngs=rngs,
                )
                blocks.append(block)
                channels = out
            outs.append(out)
        self.blocks = nnx.List(blocks)
        self.channels = channels
        self.stage_channels = tuple(outs)
        self.stage_strides = config.strides

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the last map; see `Backbone`."""
        return self.stages(images)[-1]

    def stages(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """Returns each stage's map; see `Backbone`."""
        x = jax.nn.relu(self.stem(self._normalised(images)))
        if self._config.stem == "imagenet":
            # Zeros are no maximum after ReLU. jax2onnx 0.17 drops the padding of a pooling without a word.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        maps = []
        blocks = iter(self.blocks)
        for depth in self._config.depths:
            for _ in range(depth):
                x = next(blocks)(x)
            maps.append(x)
        return tuple(maps)

    def _normalised(self, images: jax.Array) -> jax.Array:
        pixels = images.astype(jnp.float32) / 255.0
        if self._config.colour == "grey":
            return (jnp.mean(pixels, axis=-1, keepdims=True) - self._config.mean[0]) / self._config.std[0]
        return (pixels - jnp.array(self._config.mean)) / jnp.array(self._config.std)
