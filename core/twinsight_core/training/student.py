"""The first weights of `base`: the teacher's backbone under a head of principal components."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.mobilenet import MobileNetV1
from twinsight_core.models.siamese import SiameseNetwork
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
