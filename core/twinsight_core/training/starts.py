"""The first weights of a network in training: another model's as far as they fit, the rest drawn at random."""

from __future__ import annotations

from typing import TypeVar

from flax import nnx

from twinsight_core.errors import TrainingError
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.first_weights import Maker, drawn
from twinsight_core.models.rcnn import FasterRCNN
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.packages import ModelPackage

NetworkT = TypeVar("NetworkT", Classifier, SiameseNetwork, FasterRCNN)


def first_network(make: Maker[NetworkT], *, seed: int, start: ModelPackage | None) -> NetworkT:
    """Returns a network to train: with a package's backbone, and its head if that fits too, in evaluation mode.

    The batch norm's statistics are also the package's, and do not change in that mode: batches of few classes would
    spoil them.

    Args:
        make: makes the network.
        seed: of what is drawn.
        start: the package; None to draw all weights and return the network in training mode.

    Raises:
        TrainingError: the package has no backbone, or another one.
    """
    if start is None:
        return drawn(make, seed=seed)
    source, shapes = start.build(), nnx.eval_shape(lambda: make(rngs=nnx.Rngs(seed)))
    if (
        not isinstance(source, Classifier | SiameseNetwork | FasterRCNN)
        or source.backbone_config != shapes.backbone_config
    ):
        raise TrainingError(
            f"The model `{start.name}` does not have the backbone to train; name another, or `none`.",
            reason="START_MISMATCH",
        )
    given = {"backbone": nnx.state(source.backbone)}
    if isinstance(source, Classifier | SiameseNetwork) and _same_head(source, shapes):
        given["head"] = nnx.state(source.head)
    network = drawn(make, seed=seed, given=nnx.State(given))
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    return network


def _same_head(source: Classifier | SiameseNetwork, network: Classifier | SiameseNetwork | FasterRCNN) -> bool:
    """Returns whether both are of one kind, with heads of one shape."""
    return (
        isinstance(network, Classifier | SiameseNetwork)
        and isinstance(network, type(source))
        and source.head.kernel.shape == network.head.kernel.shape
    )
