"""Residual networks: stages of blocks that add to what they are given.

With the stem "imagenet" it is the network of the paper, with paddings and names as in torchvision, so that its weights
fit; with the stems "small" and "strided" it keeps more of the resolution at the start, for inputs of some tens of
pixels.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5 and table 1; the stride of a
bottleneck is in its 3x3 convolution, as in torchvision ("ResNet v1.5").
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from twinsight_core.json_fields import JsonFields

# torchvision's values.
BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
# Mean and standard deviation of ImageNet's pixels, 0..1, by which torchvision's networks expect them to be scaled.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EXPANSION = 4
"""Channels out of a bottleneck for each inside."""

BLOCKS: tuple[Literal["basic", "bottleneck"], ...] = ("basic", "bottleneck")
STEMS: tuple[Literal["imagenet", "strided", "small"], ...] = ("imagenet", "strided", "small")
# Window and stride of each stem's convolution, and the stride of the first stage's map.
_STEMS = {"imagenet": (7, 2, 4), "strided": (5, 2, 2), "small": (3, 1, 1)}
COLOURS: tuple[Literal["rgb", "grey"], ...] = ("rgb", "grey")
MAX_STAGES, MAX_DEPTH, MAX_WIDTH = 6, 64, 4096


@dataclass(frozen=True)
class ResNetConfig:
    """What a residual network is made of.

    Attributes:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        depths: blocks of each stage.
        widths: channels inside the blocks of each stage.
        stem: "imagenet" (7x7 with stride 2, then a pooling with stride 2), "strided" (5x5 with stride 2) or "small"
            (3x3 with stride 1).
        colour: "rgb", or "grey": the mean of the three channels.
        mean: what is taken from the pixels in 0..1, by channel; for "grey" the first counts.
        std: what they are then divided by.

    Raises:
        ValueError: a value breaks its rule.
    """

    NAME: ClassVar[str] = "resnet"

    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: Literal["imagenet", "strided", "small"] = "imagenet"
    colour: Literal["rgb", "grey"] = "rgb"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name, most in (("depths", MAX_DEPTH), ("widths", MAX_WIDTH)):
            values = getattr(self, name)
            if not 1 <= len(values) <= MAX_STAGES or not all(1 <= one <= most for one in values):
                raise ValueError(f"`{name}` (={list(values)}) must be 1 to {MAX_STAGES} integers in 1..{most}.")
        if len(self.depths) != len(self.widths):
            raise ValueError(f"`depths` (={list(self.depths)}) and `widths` (={list(self.widths)}) must be as many.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("`mean` and `std` must be three numbers each, those of `std` above 0.")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the picture that one step in each map of `ResNet.stages` spans."""
        return tuple(_STEMS[self.stem][2] * 2**stage for stage in range(len(self.widths)))

    def to_json(self) -> dict[str, object]:
        """Returns plain values, by the attributes' names, and the backbone's name."""
        values = {name: list(one) if isinstance(one, tuple) else one for name, one in asdict(self).items()}
        return {"name": self.NAME, **values}

    @classmethod
    def from_json(cls, fields: JsonFields) -> ResNetConfig:
        """Returns the configuration of `to_json`'s values.

        Raises:
            ValueError: a value is of the wrong type or breaks its rule.
        """
        fields.check_names(("name", *(field.name for field in fields_of(cls))))
        return cls(
            block=fields.choice("block", BLOCKS),
            depths=fields.integers("depths", least=1, most=MAX_DEPTH),
            widths=fields.integers("widths", least=1, most=MAX_WIDTH),
            stem=fields.choice("stem", STEMS),
            colour=fields.choice("colour", COLOURS),
            mean=fields.number_list("mean"),
            std=fields.number_list("std"),
        )


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
        window, stride, _ = _STEMS[config.stem]
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
