"""A network's first weights.

Drawn one tensor at a time, as a network's constructor does, each of their shapes is compiled by itself: sixteen seconds
for MobileNet's on two cores, most of a training's start. Here one program draws them all, and none that is given.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import jax
from flax import nnx

NetworkT = TypeVar("NetworkT", bound=nnx.Module)
NetworkT_co = TypeVar("NetworkT_co", bound=nnx.Module, covariant=True)


class Maker(Protocol[NetworkT_co]):
    """Makes a network by a source of first weights, as `partial(Classifier, config=config)` does."""

    def __call__(self, *, rngs: nnx.Rngs) -> NetworkT_co:
        """Returns a network."""
        ...


def drawn(make: Maker[NetworkT], *, seed: int, given: nnx.State[str, object] | None = None) -> NetworkT:
    """Returns the network that `make(rngs=nnx.Rngs(seed))` makes, with some of its weights given.

    Args:
        make: makes the network.
        seed: of that source.
        given: weights, and statistics of batch norm, that are not drawn.

    Raises:
        ValueError: the network has no place for one that is given, or another shape there.
    """
    graph, shapes = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(seed))))
    places = dict(nnx.to_flat_state(shapes))
    weights = {} if given is None else dict(nnx.to_flat_state(given))
    for path, weight in weights.items():
        if path not in places or places[path].shape != weight.shape:
            raise ValueError(f"The network has no place for {'.'.join(map(str, path))}, {weight.shape}.")
    missing = [path for path in places if path not in weights]

    def draw() -> list[nnx.Variable[jax.Array]]:
        flat = dict(nnx.to_flat_state(nnx.state(make(rngs=nnx.Rngs(seed)))))
        return [flat[path] for path in missing]

    # It runs once: on CPUs optimising it takes longer than it gains.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    weights |= zip(missing, jax.jit(draw, compiler_options=options)(), strict=True)
    return nnx.merge(graph, nnx.from_flat_state(weights))
