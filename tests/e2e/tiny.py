"""Small model packages for a server to serve: real networks whose weights are drawn."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from twinsight_core.calibration import Calibration
from twinsight_core.images import Preprocessing
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.registry import build_network
from twinsight_core.packages import ModelCard, ModelPackage, save_package

INPUT = Preprocessing(height_px=32, width_px=32)


def save_classifier(folder: Path, labels: tuple[str, ...]) -> ModelPackage:
    """Writes a classifier of 32x32 pixels."""
    backbone = ResNetConfig(stem="small", depths=(1, 1), widths=(4, 8))
    return _save(folder, ClassifierConfig(backbone=backbone, classes=len(labels)), labels=labels)


def save_embedder(folder: Path, calibration: Calibration | None) -> ModelPackage:
    """Writes an embedding model with 8 components."""
    config = SiameseConfig(backbone=MobileNetConfig(width_multiplier=0.1), dimension=8)
    return _save(folder, config, calibration=calibration)


def _save(
    folder: Path,
    config: SiameseConfig | ClassifierConfig,
    *,
    labels: tuple[str, ...] = (),
    calibration: Calibration | None = None,
) -> ModelPackage:
    # Initialising op by op would compile each.
    graph, state = nnx.split(nnx.eval_shape(lambda: build_network(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    filled = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.05, 0.5, leaf.shape), jnp.float32), state)
    network = nnx.merge(graph, filled)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    card = ModelCard(
        architecture="siamese" if isinstance(config, SiameseConfig) else "classifier",
        config=config,
        task=config.TASK,
        preprocessing=INPUT,
        dimension=config.dimension if isinstance(config, SiameseConfig) else 0,
        licence="Apache-2.0",
        training_data="Nothing.",
        description="For tests.",
        labels=labels,
        calibration=calibration,
    )
    return save_package(folder, card, network)
