"""The feature pyramid: every map of the backbone, combined with the coarser ones."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from twinsight_core.models.configs.rcnn import GROUP_CHANNELS


class FeaturePyramid(nnx.Module):
    """Brings the maps to one width and adds each to the finer one below it.

    Group norm needs no batch and no running statistics, so a few pictures a step will do and training and serving
    compute the same.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 3; group norm in it: Wu and
    He, "Group Normalization", ECCV 2018, section 4.2.

    Args:
        channels_in: channels of each map, finest first.
        channels: channels of each map of the pyramid, a multiple of `GROUP_CHANNELS`.
        rngs: source of the first weights.
    """

    def __init__(self, *, channels_in: Sequence[int], channels: int, rngs: nnx.Rngs) -> None:
        self.lateral = nnx.List([_conv_norm(one, channels, window=1, rngs=rngs) for one in channels_in])
        self.output = nnx.List([_conv_norm(channels, channels, window=3, rngs=rngs) for _ in channels_in])

    def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """Returns the pyramid, finest first.

        Args:
            maps: [batch, rows, columns, channels_in] float32, each with half the rows and columns of the one before,
                rounded up.

        Returns:
            [batch, rows, columns, channels] float32 for each.
        """
        merged: list[jax.Array] = []
        for layer, one in zip(reversed(self.lateral), reversed(maps), strict=True):
            y = layer(one)
            merged.append(y if not merged else y + _doubled(merged[-1], rows=one.shape[1], columns=one.shape[2]))
        return tuple(layer(one) for layer, one in zip(self.output, reversed(merged), strict=True))


def _conv_norm(channels_in: int, channels: int, *, window: int, rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential(
        nnx.Conv(
            channels_in,
            channels,
            kernel_size=(window, window),
            padding="SAME",
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        ),
        nnx.GroupNorm(channels, num_groups=None, group_size=GROUP_CHANNELS, epsilon=1e-5, rngs=rngs),
    )


def _doubled(x: jax.Array, *, rows: int, columns: int) -> jax.Array:
    """Returns every cell twice along both axes, cut to `rows` and `columns`."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)[:, :rows, :columns]
