"""Networks and their tensors by name, as weights files hold them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flax import nnx

from twinsight_core.models.configs.architectures import Config
from twinsight_core.models.registry import Network, build_network


def tensors_of(network: Network) -> dict[str, np.ndarray]:
    """Returns every tensor of a network, in the order of their names."""
    flat = nnx.to_flat_state(nnx.state(network))
    tensors = {_name(place): np.asarray(variable[...]) for place, variable in flat}
    return {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}


def network_of(config: Config, tensors: Mapping[str, np.ndarray]) -> Network:
    """Returns the network with these tensors, in evaluation mode.

    Raises:
        ValueError: one is missing, is none of the architecture's, or has another shape, another type than float32 or a
            value that is not finite; names the first.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: build_network(config, rngs=nnx.Rngs(0))))
    flat = {_name(place): (place, variable) for place, variable in nnx.to_flat_state(state)}
    _check(tensors, {name: tuple(variable.shape) for name, (_, variable) in flat.items()})
    filled = nnx.from_flat_state([(place, variable.replace(tensors[name])) for name, (place, variable) in flat.items()])
    network = nnx.merge(graph, filled)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    return network


def _name(place: tuple[object, ...]) -> str:
    return ".".join(str(part) for part in place)


def _check(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted(shapes):
        if name not in tensors:
            raise ValueError(f"the tensor `{name}` is missing.")
    for name in sorted(tensors):
        tensor = tensors[name]
        if name not in shapes:
            raise ValueError(f"the tensor `{name}` is not one of the architecture's.")
        if tensor.shape != shapes[name]:
            raise ValueError(f"the tensor `{name}` has the shape {tensor.shape}; it must be {shapes[name]}.")
        if tensor.dtype != np.float32:
            raise ValueError(f"the tensor `{name}` is {tensor.dtype}; it must be float32.")
        if not np.isfinite(tensor).all():
            raise ValueError(f"the tensor `{name}` holds a value that is not finite.")
