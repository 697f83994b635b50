"""MobileNetV1 weights of Keras Applications, renamed to this project's network."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
from flax import nnx
from safetensors.numpy import load_file

from twinsight_core.models.mobilenet import MobileNetV1

_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
_BLOCK = {
    "depthwise": "conv_dw_{}/depthwise_kernel",
    "depthwise_norm": "conv_dw_{}_bn/",
    "pointwise": "conv_pw_{}/kernel",
    "pointwise_norm": "conv_pw_{}_bn/",
}


def load_keras_mobilenet(backbone: MobileNetV1, path: Path) -> None:
    """Puts the weights of a safetensors file with Keras' names (`conv_dw_1/depthwise_kernel`) into a backbone.

    Args:
        backbone: of the file's width multiplier; changed in place.
        path: the file; the classifier's tensors (`conv_preds`) are left out.

    Raises:
        ValueError: a tensor is missing or has another shape.
    """
    tensors = load_file(path)
    filled = []
    for place, variable in nnx.to_flat_state(nnx.state(backbone)):
        name = _keras_name(tuple(place))
        if name not in tensors:
            raise ValueError(f"{path}: the tensor `{name}` is missing.")
        tensor = tensors[name]
        # Keras keeps axes of length 1: [3, 3, channels, 1] for a depthwise kernel, [1, 1, in, out] for a pointwise one.
        if [side for side in tensor.shape if side != 1] != [side for side in variable.shape if side != 1]:
            raise ValueError(f"{path}: the tensor `{name}` has the shape {tensor.shape}; it must be {variable.shape}.")
        filled.append((place, variable.replace(jnp.asarray(tensor.reshape(variable.shape), jnp.float32))))
    nnx.update(backbone, nnx.from_flat_state(filled))


def _keras_name(place: tuple[object, ...]) -> str:
    """Returns Keras' name of the variable at a path such as ("blocks", 0, "depthwise_norm", "scale")."""
    match place:
        case ("stem", "kernel"):
            return "conv1/kernel"
        case ("stem_norm", str(part)):
            return f"conv1_bn/{_NORM[part]}"
        case ("blocks", int(number), str(layer), "kernel"):
            return _BLOCK[layer].format(number + 1)
        case ("blocks", int(number), str(layer), str(part)):
            return _BLOCK[layer].format(number + 1) + _NORM[part]
    raise ValueError(f"{place} is no variable of the backbone.")
