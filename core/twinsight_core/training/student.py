"""The network in training: which of its weights move, and the network of a set of them."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from twinsight_core.models.mobilenet import MobileNetV1
from twinsight_core.models.siamese import SiameseConfig, SiameseNetwork
from twinsight_core.training.loop import Params
from twinsight_core.training.teacher import Projection


def first_student(config: SiameseConfig, backbone: MobileNetV1, projection: Projection) -> SiameseNetwork:
    """Returns a backbone under a projection as head, in evaluation mode.

    Args:
        config: of a network whose backbone has the shape of `backbone`.
        backbone: its weights are shared.
        projection: the head's weights.
    """
    # Shapes alone: every weight is given.
    network = nnx.eval_shape(lambda: SiameseNetwork(config=config, rngs=nnx.Rngs(0)))
    nnx.update(network.backbone, nnx.state(backbone))
    nnx.update(
        network.head, nnx.State({"kernel": jnp.asarray(projection.matrix), "bias": jnp.asarray(projection.offset)})
    )
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    return network


class Student:
    """A network of which some weights are trained; batch-norm statistics and the rest stay.

    Args:
        network: in evaluation mode.
        frozen_blocks: blocks of the backbone that stay, beside its stem.

    Attributes:
        params: the trained weights as they are in `network`.
    """

    def __init__(self, network: SiameseNetwork, *, frozen_blocks: int) -> None:
        self._graph, state = nnx.split(network)
        self._flat = list(nnx.to_flat_state(state))
        self.params: Params = {
            _name(tuple(place)): variable[...]
            for place, variable in self._flat
            if isinstance(variable, nnx.Param) and _trained(tuple(place), frozen_blocks)
        }

    def network(self, params: Params) -> SiameseNetwork:
        """Returns the network with these trained weights; may be called under jit and grad."""
        filled = [
            (place, variable.replace(params[_name(tuple(place))]) if _name(tuple(place)) in params else variable)
            for place, variable in self._flat
        ]
        return nnx.merge(self._graph, nnx.from_flat_state(filled))


def _name(place: tuple[object, ...]) -> str:
    return ".".join(str(part) for part in place)


def _trained(place: tuple[object, ...], frozen_blocks: int) -> bool:
    match place:
        case ("head", *_):
            return True
        case ("backbone", "blocks", int(number), *_):
            return number >= frozen_blocks
    return False
