"""Fills a network's variables from a file's tensors, each checked by name and shape.

Each architecture's module in this package provides a map: the path of a variable in the network -> the tensor's name in
the file and its layout there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

Place = tuple[object, ...]
"""Path of a variable in a network, such as ("blocks", 0, "norm", "scale")."""
Shape = tuple[int, ...]


class Layout(NamedTuple):
    """The layout of a tensor in a file.

    Attributes:
        shape: shape in the network -> shape in the file.
        read: the file's tensor -> the network's.
    """

    shape: Callable[[Shape], Shape]
    read: Callable[[np.ndarray], np.ndarray]


AS_IT_IS = Layout(lambda shape: shape, lambda tensor: tensor)
TORCH_CONV = Layout(lambda shape: (shape[3], shape[2], shape[0], shape[1]), lambda tensor: tensor.transpose(2, 3, 1, 0))
"""[out, in, rows, columns] -> [rows, columns, in, out]."""
TORCH_DEPTHWISE = Layout(lambda shape: (shape[2], 1, *shape[:2]), lambda tensor: tensor[:, 0].transpose(1, 2, 0))
"""[channels, 1, rows, columns] -> [rows, columns, channels]."""
TORCH_POINTWISE = Layout(lambda shape: (shape[1], shape[0], 1, 1), lambda tensor: tensor[:, :, 0, 0].T)
"""[out, in, 1, 1] -> [in, out]."""
TORCH_LINEAR = Layout(lambda shape: shape[::-1], lambda tensor: tensor.T)
"""[out, in] -> [in, out]."""
KERAS_DEPTHWISE = Layout(lambda shape: (*shape, 1), lambda tensor: tensor[..., 0])
"""[rows, columns, channels, 1] -> [rows, columns, channels]."""
KERAS_POINTWISE = Layout(lambda shape: (1, 1, *shape), lambda tensor: tensor[0, 0])
"""[1, 1, in, out] -> [in, out]."""

TORCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""Variables of a batch norm -> PyTorch's names."""
# A counter that PyTorch keeps for each batch norm; no output depends on it.
TORCH_COUNTER = "num_batches_tracked"


class Source(NamedTuple):
    """Where a variable's values come from.

    Attributes:
        name: the tensor's name in the file.
        layout: its layout there.
    """

    name: str
    layout: Layout = AS_IT_IS


def fill(
    network: nnx.Module,
    tensors: Mapping[str, np.ndarray],
    source: Callable[[Place], Source],
    *,
    ignored: Callable[[str], bool] | None = None,
) -> None:
    """Puts the tensors of a file into a network.

    Args:
        network: changed in place; its variables may be abstract.
        tensors: by the file's names.
        source: path of a variable -> where its values are.
        ignored: whether the tensor of a name may have no place in the network; None ignores none.

    Raises:
        ValueError: a tensor is missing, unexpected, of another shape, not floating-point or not finite; or a variance
            is negative.
    """
    filled, read = [], set()
    for path, variable in nnx.to_flat_state(nnx.state(network)):
        name, layout = source(tuple(path))
        wanted = layout.shape(tuple(variable.shape))
        if name not in tensors:
            raise ValueError(f"the tensor `{name}` is missing; it must have the shape {wanted}.")
        tensor = tensors[name]
        if tensor.shape != wanted:
            raise ValueError(f"the tensor `{name}` has the shape {tensor.shape}; it must be {wanted}.")
        if tensor.dtype.kind != "f":
            raise ValueError(f"the tensor `{name}` is {tensor.dtype}; it must be floating-point.")
        if not np.isfinite(tensor).all():
            raise ValueError(f"the tensor `{name}` holds a value that is not finite.")
        if path[-1] == "var" and (tensor < 0).any():
            raise ValueError(f"the tensor `{name}` holds a negative variance.")
        filled.append((path, variable.replace(jnp.asarray(layout.read(tensor), jnp.float32))))
        read.add(name)
    for name in sorted(set(tensors) - read):
        if ignored is None or not ignored(name):
            raise ValueError(
                f"the tensor `{name}` with the shape {tensors[name].shape} is not part of the architecture."
            )
    nnx.update(network, nnx.from_flat_state(filled))


def shape_of(tensors: Mapping[str, np.ndarray], name: str, *, rank: int) -> Shape:
    """Returns the shape of a tensor that determines the network's size.

    Raises:
        ValueError: there is none of that name, or it does not have `rank` axes.
    """
    if name not in tensors:
        raise ValueError(f"the tensor `{name}` is missing.")
    shape = tensors[name].shape
    if len(shape) != rank:
        raise ValueError(f"the tensor `{name}` has the shape {shape}; it must have {rank} axes.")
    return shape
