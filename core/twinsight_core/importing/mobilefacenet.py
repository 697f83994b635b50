"""MobileFaceNet with the names of the common PyTorch implementation (`blocks.0.conv.3.weight`, `linear7.bn.bias`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flax import nnx

from twinsight_core.importing.filling import (
    AS_IT_IS,
    TORCH_CONV,
    TORCH_COUNTER,
    TORCH_DEPTHWISE,
    TORCH_NORM,
    TORCH_POINTWISE,
    Place,
    Source,
    fill,
    shape_of,
)
from twinsight_core.models.configs.mobilefacenet import MobileFaceNetConfig
from twinsight_core.models.mobilefacenet import MobileFaceNet

# Layers outside the blocks, and how their kernels lie.
_LAYERS = {
    "stem": ("conv1", TORCH_CONV),
    "stem_depthwise": ("dw_conv1", TORCH_DEPTHWISE),
    "last": ("conv2", TORCH_POINTWISE),
    "whole": ("linear7", TORCH_DEPTHWISE),
    "head": ("linear1", TORCH_POINTWISE),
}
# A block is one sequence of layers: the place of each one's convolution in it; batch norm and PReLU follow.
_BLOCK_LAYERS = {"expand": (0, TORCH_POINTWISE), "depthwise": (3, TORCH_DEPTHWISE), "project": (6, TORCH_POINTWISE)}


def import_mobilefacenet(tensors: Mapping[str, np.ndarray]) -> tuple[MobileFaceNetConfig, MobileFaceNet]:
    """Returns the network that the tensors belong to; its dimension and input size follow from their shapes.

    Raises:
        ValueError: they are of another network.
    """
    _, _, rows, columns = shape_of(tensors, "linear7.conv.weight", rank=4)
    config = MobileFaceNetConfig(
        dimension=shape_of(tensors, "linear1.conv.weight", rank=4)[0], map_rows=rows, map_columns=columns
    )
    network = nnx.eval_shape(lambda: MobileFaceNet(config=config, rngs=nnx.Rngs(0)))
    fill(network, tensors, _source, ignored=lambda name: name.endswith(TORCH_COUNTER))
    return config, network


def _source(place: Place) -> Source:
    """Where the variable at a path such as ("blocks", 0, "expand", "norm", "scale") is."""
    match place:
        case ("blocks", int(number), str(layer), "conv", "kernel"):
            first, layout = _BLOCK_LAYERS[layer]
            return Source(f"blocks.{number}.conv.{first}.weight", layout)
        case ("blocks", int(number), str(layer), "norm", str(part)):
            return Source(f"blocks.{number}.conv.{_BLOCK_LAYERS[layer][0] + 1}.{TORCH_NORM[part]}", AS_IT_IS)
        case ("blocks", int(number), str(layer), "slope"):
            return Source(f"blocks.{number}.conv.{_BLOCK_LAYERS[layer][0] + 2}.weight", AS_IT_IS)
        case (str(layer), "conv", "kernel"):
            name, layout = _LAYERS[layer]
            return Source(f"{name}.conv.weight", layout)
        case (str(layer), "norm", str(part)):
            return Source(f"{_LAYERS[layer][0]}.bn.{TORCH_NORM[part]}", AS_IT_IS)
        case (str(layer), "slope"):
            return Source(f"{_LAYERS[layer][0]}.prelu.weight", AS_IT_IS)
    raise ValueError(f"{place} is not a variable of the network.")
