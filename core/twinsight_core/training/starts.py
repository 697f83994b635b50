"""The first weights of a network in training: drawn at random, or another model's as far as they fit."""

from __future__ import annotations

from typing import TypeVar

from flax import nnx

from twinsight_core.errors import TrainingError
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.rcnn import FasterRCNN
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.packages import ModelPackage

NetworkT = TypeVar("NetworkT", Classifier, SiameseNetwork, FasterRCNN)


def start_from(network: NetworkT, package: ModelPackage) -> NetworkT:
    """Returns the network with a package's backbone, and its head where that fits too; in evaluation mode.

    The batch norm's statistics are the package's as well, and stay as they are in that mode: batches of few classes
    would spoil them.

    Raises:
        TrainingError: the package has no backbone, or another one.
    """
    source = package.build()
    if (
        not isinstance(source, Classifier | SiameseNetwork | FasterRCNN)
        or source.backbone_config != network.backbone_config
    ):
        raise TrainingError(
            f"The model `{package.name}` does not have the backbone that is trained; name another, or `none`.",
            reason="START_MISMATCH",
        )
    nnx.update(network.backbone, nnx.state(source.backbone))
    if isinstance(network, Classifier | SiameseNetwork) and isinstance(source, type(network)):
        _copy_head(network, source)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    return network


def _copy_head(network: Classifier | SiameseNetwork, source: Classifier | SiameseNetwork) -> None:
    if source.head.kernel.shape == network.head.kernel.shape:
        nnx.update(network.head, nnx.state(source.head))
