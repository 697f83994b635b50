"""MobileFaceNet: inverted residual blocks, and a global depthwise convolution instead of a mean over the face.

The mean weighs the rim of a face's map as much as its centre; the global depthwise convolution learns a weight for each
place and channel. It therefore needs aligned faces of one size.

Source: Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices", CCBR
2018 (arXiv:1804.07573), table 1; pixels as (x - 127.5) / 128, section 4.1; paddings as in PyTorch, so that weights of
the common implementations fit.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from twinsight_core.models.configs.mobilefacenet import STRIDE, MobileFaceNetConfig
from twinsight_core.models.layers import l2_normalise
from twinsight_core.models.mobilenet import DepthwiseConv

# (expansion, channels, blocks, stride of the first) of each stage; table 1 of the paper.
STAGES: tuple[tuple[int, int, int, int], ...] = (
    (2, 64, 5, 2),
    (4, 128, 1, 2),
    (2, 128, 6, 1),
    (4, 128, 1, 2),
    (2, 128, 2, 1),
)
STEM_CHANNELS = 64
LAST_CHANNELS = 512
# PyTorch's values.
BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9


class GlobalDepthwiseConv(nnx.Module):
    """One kernel a channel, as large as the map: a weight for each place; no bias.

    Args:
        rows: rows of the map.
        columns: columns of the map.
        channels: channels in and out.
        rngs: source of the first weights.
    """

    def __init__(self, *, rows: int, columns: int, channels: int, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal", in_axis=(0, 1), out_axis=2)
        self.kernel = nnx.Param(init(rngs.params(), (rows, columns, channels)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the sum over all places, [batch, channels] float32.

        Args:
            x: [batch, rows, columns, channels] float32.

        Raises:
            ValueError: the map has another size.
        """
        rows, columns, _ = self.kernel.shape
        if x.shape[1:3] != (rows, columns):
            raise ValueError(
                f"`images` must be {rows * STRIDE} pixels high and {columns * STRIDE} wide: the last map has "
                f"{x.shape[1]} rows and {x.shape[2]} columns instead of {rows} and {columns}."
            )
        # Not as a sum: with maps in bfloat16, XLA:CPU from 0.11 on gives NaN for it, where it fuses what comes before.
        return jnp.einsum(
            "brck,rck->bk",
            x.astype(jnp.float32),
            self.kernel[...].astype(jnp.float32),
            precision=jax.lax.Precision.HIGHEST,
        )


class NormedLayer(nnx.Module):
    """A convolution or linear layer, batch norm, and where it is not linear a PReLU with a slope for each channel.

    Source of the PReLU: He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 1.

    Args:
        conv: what is done first, without bias.
        channels: channels out of it.
        linear: no PReLU.
        rngs: source of the first weights.
    """

    def __init__(
        self,
        conv: nnx.Conv | DepthwiseConv | GlobalDepthwiseConv | nnx.Linear,
        *,
        channels: int,
        linear: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = conv
        self.norm = nnx.BatchNorm(channels, epsilon=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM, rngs=rngs)
        self.slope = None if linear else nnx.Param(jnp.full(channels, 0.25))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, ..., channels] float32."""
        y: jax.Array = self.norm(self.conv(x))
        if self.slope is None:
            return y
        return jnp.maximum(y, 0.0) + self.slope[...].astype(y.dtype) * jnp.minimum(y, 0.0)


def _pointwise(channels_in: int, channels_out: int, *, linear: bool = False, rngs: nnx.Rngs) -> NormedLayer:
    # A 1x1 convolution is a matrix product over the last axis.
    conv = nnx.Linear(channels_in, channels_out, use_bias=False, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
    return NormedLayer(conv, channels=channels_out, linear=linear, rngs=rngs)


def _depthwise(channels: int, *, stride: int, rngs: nnx.Rngs) -> NormedLayer:
    conv = DepthwiseConv(channels=channels, stride=stride, padding="even", rngs=rngs)
    return NormedLayer(conv, channels=channels, rngs=rngs)


class Bottleneck(nnx.Module):
    """Widens, convolves each channel in space, narrows; added to its input where the two are of one shape.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, figure 3.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        expansion: channels inside for each of the input.
        stride: step of the depthwise convolution.
        rngs: source of the first weights.
    """

    def __init__(self, *, channels_in: int, channels_out: int, expansion: int, stride: int, rngs: nnx.Rngs) -> None:
        inside = channels_in * expansion
        self.expand = _pointwise(channels_in, inside, rngs=rngs)
        self.depthwise = _depthwise(inside, stride=stride, rngs=rngs)
        self.project = _pointwise(inside, channels_out, linear=True, rngs=rngs)
        self.adds = stride == 1 and channels_in == channels_out

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, ceil(height / stride), ceil(width / stride), channels_out] float32."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class MobileFaceNet(nnx.Module):
    """Aligned faces in, embeddings out.

    Args:
        config: what it is made of.
        rngs: source of the first weights.
    """

    def __init__(self, *, config: MobileFaceNetConfig, rngs: nnx.Rngs) -> None:
        channels = STEM_CHANNELS
        stem = nnx.Conv(
            3,
            channels,
            kernel_size=(3, 3),
            strides=2,
            padding=1,
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        self.stem = NormedLayer(stem, channels=channels, rngs=rngs)
        self.stem_depthwise = _depthwise(channels, stride=1, rngs=rngs)
        blocks = []
        for expansion, channels_out, depth, first_stride in STAGES:
            for number in range(depth):
                block = Bottleneck(
                    channels_in=channels,
                    channels_out=channels_out,
                    expansion=expansion,
                    stride=1 if number else first_stride,
                    rngs=rngs,
                )
                blocks.append(block)
                channels = channels_out
        self.blocks = nnx.List(blocks)
        self.last = _pointwise(channels, LAST_CHANNELS, rngs=rngs)
        whole = GlobalDepthwiseConv(rows=config.map_rows, columns=config.map_columns, channels=LAST_CHANNELS, rngs=rngs)
        self.whole = NormedLayer(whole, channels=LAST_CHANNELS, linear=True, rngs=rngs)
        self.head = _pointwise(LAST_CHANNELS, config.dimension, linear=True, rngs=rngs)

    @property
    def trunk(self) -> tuple[nnx.Module, ...]:
        """What comes before the head; see `bfloat16`."""
        return (self.stem, self.stem_depthwise, self.blocks, self.last)

    def features(self, images: jax.Array) -> jax.Array:
        """Returns the embeddings before they are brought to length 1, [batch, dimension] float32.

        Args:
            images: [batch, 16 * map_rows, 16 * map_columns, 3] uint8 (or float in the same range), RGB, 0..255; aligned
                faces.

        Raises:
            ValueError: the pictures have another size.
        """
        x = self.stem_depthwise(self.stem((images.astype(jnp.float32) - 127.5) / 128.0))
        for block in self.blocks:
            x = block(x)
        return self.head(self.whole(self.last(x)))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the embeddings of faces.

        Args:
            images: [batch, 16 * map_rows, 16 * map_columns, 3] uint8 (or float in the same range), RGB, 0..255; aligned
                faces.

        Returns:
            [batch, dimension] float32, unit vectors.
        """
        return l2_normalise(self.features(images))
