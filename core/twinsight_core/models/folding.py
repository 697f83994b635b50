"""Folds batch norm into the layer before it: a network for serving, with the same outputs from fewer operations.

In evaluation batch norm is the same multiplication and addition for every picture:

    scale * (W x - mean) / sqrt(var + epsilon) + bias  =  (factor * W) x + (bias - factor * mean)
    factor = scale / sqrt(var + epsilon)

so the factor goes into the kernel, and only an addition remains of the layer.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, equation 14.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from twinsight_core.models.mobilefacenet import GlobalDepthwiseConv
from twinsight_core.models.mobilenet import DepthwiseConv

Module = TypeVar("Module", bound=nnx.Module)

_FOLDABLE = (nnx.Conv, nnx.Linear, DepthwiseConv, GlobalDepthwiseConv)
"""Layers whose kernel has the channels that they give as its last axis."""


class ChannelBias(nnx.Module):
    """Adds a number to each channel.

    Args:
        bias: [channels] float32.
    """

    def __init__(self, bias: jax.Array) -> None:
        self.bias = nnx.Param(bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, ..., channels] in the type of `x`."""
        return x + self.bias[...].astype(x.dtype)


def fold_batch_norm(network: Module) -> Module:
    """Returns a copy for evaluation, in which the batch norms are part of the layers before them.

    A batch norm `norm` belongs to the layer `conv` of the same module, one named `X_norm` to the layer `X`. One without
    such a layer stays as it is. `network` itself is not changed.

    Args:
        network: with its weights; it is read as in evaluation, whatever its mode.
    """
    folded = nnx.clone(network)
    folded.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    for _, module in list(nnx.iter_modules(folded)):
        for name, norm in list(vars(module).items()):
            layer = vars(module).get(_layer_name(name))
            if isinstance(norm, nnx.BatchNorm) and isinstance(layer, _FOLDABLE):
                setattr(module, name, _folded(layer, norm))
    return folded


def _layer_name(norm: str) -> str:
    return "conv" if norm == "norm" else norm.removesuffix("_norm")


def _folded(layer: nnx.Conv | nnx.Linear | DepthwiseConv | GlobalDepthwiseConv, norm: nnx.BatchNorm) -> ChannelBias:
    """Multiplies the kernel of `layer` by the factor of `norm` and returns the remaining addition."""
    # In NumPy, since JAX would compile each of these lines for each shape.
    factor = 1.0 / np.sqrt(np.asarray(norm.var[...]) + np.float32(norm.epsilon))
    if norm.scale is not None:
        factor = factor * np.asarray(norm.scale[...])
    # A new variable: the copy's old one may share its memory with the network that it was copied from.
    layer.kernel = nnx.Param(jnp.asarray(np.asarray(layer.kernel[...]) * factor))
    left = -np.asarray(norm.mean[...])
    if isinstance(layer, nnx.Conv | nnx.Linear) and layer.bias is not None:
        left = left + np.asarray(layer.bias[...])
        layer.bias, layer.use_bias = None, False
    left = left * factor
    if norm.bias is not None:
        left = left + np.asarray(norm.bias[...])
    return ChannelBias(jnp.asarray(left))
