"""A network in training: which of its weights move, its running statistics, and the network of a set of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import jax
from flax import nnx

from twinsight_core.models.bfloat16 import in_bfloat16
from twinsight_core.models.precision import Precision, best_precision

NetworkT = TypeVar("NetworkT", bound=nnx.Module)

Arrays = dict[str, jax.Array]
"""Arrays by the dotted path of their variable, float32."""

Place = tuple[object, ...]
"""Path of a variable in a network: ("backbone", "blocks", 0, "pointwise", "kernel")."""


class Trainable(Generic[NetworkT]):
    """A network of which some weights are trained; all others stay.

    The weights are float32 always. In training the products are computed in `precision`, in evaluation in float32.

    Args:
        network: as training starts.
        trained: says of a weight's path whether it is trained.
        precision: of the products in training; None for bfloat16 on a GPU or TPU and float32 on a CPU.

    Attributes:
        params: the trained weights as they are in `network`.
        stats: its running statistics (batch norm's means and variances).
    """

    def __init__(
        self,
        network: NetworkT,
        *,
        trained: Callable[[Place], bool] = lambda _: True,
        precision: Precision | None = None,
    ) -> None:
        self._graph, state = nnx.split(network)
        fast = (precision or best_precision()) == "bf16"
        self._training_graph = nnx.graphdef(in_bfloat16(network)) if fast else self._graph
        self._flat = [(tuple(place), variable) for place, variable in nnx.to_flat_state(state)]
        self.params: Arrays = {
            _name(place): variable[...]
            for place, variable in self._flat
            if isinstance(variable, nnx.Param) and trained(place)
        }
        self.stats: Arrays = {
            _name(place): variable[...] for place, variable in self._flat if isinstance(variable, nnx.BatchStat)
        }

    def network(self, params: Arrays, stats: Arrays | None = None) -> NetworkT:
        """Returns the network to train with these weights and statistics; may be called under jit and grad.

        Args:
            params: as `self.params`.
            stats: as `self.stats`; None: those.
        """
        return self._filled(self._training_graph, params, stats)

    def evaluated(self, params: Arrays, stats: Arrays | None = None) -> NetworkT:
        """Returns the same in evaluation mode, computed in float32."""
        made = self._filled(self._graph, params, stats)
        made.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
        return made

    def stats_of(self, network: NetworkT) -> Arrays:
        """Returns the statistics of a network that `network` made, as it has updated them."""
        flat = nnx.to_flat_state(nnx.state(network, nnx.BatchStat))
        return {_name(tuple(place)): variable[...] for place, variable in flat}

    def _filled(self, graph: nnx.GraphDef[NetworkT], params: Arrays, stats: Arrays | None) -> NetworkT:
        given = params | (self.stats if stats is None else stats)
        filled = [(place, variable.replace(given.get(_name(place), variable[...]))) for place, variable in self._flat]
        return nnx.merge(graph, nnx.from_flat_state(filled))


def is_trained(place: Place, *, frozen_blocks: int) -> bool:
    """Returns whether a weight is trained where the stem and the first blocks of a backbone stay; 0: all are."""
    match place:
        case ("backbone", "blocks", int(number), *_):
            return number >= frozen_blocks
        case ("backbone", *_):
            return frozen_blocks == 0
    return True


def _name(place: Place) -> str:
    return ".".join(str(part) for part in place)
