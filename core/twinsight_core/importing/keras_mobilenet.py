"""MobileNetV1 with the names of Keras Applications (`conv_dw_1/depthwise_kernel`), kernels as Keras lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx

from twinsight_core.errors import StartupError
from twinsight_core.importing.filling import AS_IT_IS, KERAS_DEPTHWISE, KERAS_POINTWISE, Place, Source, fill, shape_of
from twinsight_core.importing.weights import read_weights
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilenet import BLOCKS, MobileNetConfig
from twinsight_core.models.mobilenet import MobileNetV1

_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
_BLOCK = {"depthwise": "conv_dw_{}", "pointwise": "conv_pw_{}"}
_HEAD = "conv_preds/"


def import_keras_mobilenet(tensors: Mapping[str, np.ndarray]) -> tuple[ClassifierConfig, Classifier]:
    """Returns the classifier that the tensors belong to; its width multiplier follows from their shapes.

    Raises:
        ValueError: they are of another network.
    """
    last = shape_of(tensors, f"conv_pw_{len(BLOCKS)}/kernel", rank=4)[3]
    config = ClassifierConfig(
        backbone=MobileNetConfig(width_multiplier=last / BLOCKS[-1][0]),
        classes=shape_of(tensors, f"{_HEAD}kernel", rank=4)[3],
    )
    network = nnx.eval_shape(lambda: Classifier(config=config, rngs=nnx.Rngs(0)))
    fill(network, tensors, _classifier_source)
    return config, network


def load_keras_mobilenet(backbone: MobileNetV1, path: Path) -> None:
    """Puts the weights of a safetensors file into a backbone; the classifier's tensors are left out.

    Args:
        backbone: of the file's width multiplier; changed in place.
        path: the file.

    Raises:
        StartupError: the file can't be read, or a tensor is missing, too many or of another shape.
    """
    tensors = read_weights(path)
    try:
        fill(backbone, tensors, _backbone_source, ignored=lambda name: name.startswith(_HEAD))
    except ValueError as error:
        raise StartupError(f"{path}: {error}", reason="WEIGHTS_MISMATCH") from error


def _classifier_source(place: Place) -> Source:
    match place:
        case ("head", str(part)):
            return Source(_HEAD + part, KERAS_POINTWISE if part == "kernel" else AS_IT_IS)
        case ("backbone", *rest):
            return _backbone_source(tuple(rest))
    raise ValueError(f"{place} is not a variable of the classifier.")


def _backbone_source(place: Place) -> Source:
    """Where the variable at a path such as ("blocks", 0, "depthwise_norm", "scale") is."""
    match place:
        case ("stem", "kernel"):
            return Source("conv1/kernel")
        case ("stem_norm", str(part)):
            return Source(f"conv1_bn/{_NORM[part]}")
        case ("blocks", int(number), "depthwise", "kernel"):
            return Source(f"{_BLOCK['depthwise'].format(number + 1)}/depthwise_kernel", KERAS_DEPTHWISE)
        case ("blocks", int(number), "pointwise", "kernel"):
            return Source(f"{_BLOCK['pointwise'].format(number + 1)}/kernel", KERAS_POINTWISE)
        case ("blocks", int(number), str(norm), str(part)):
            return Source(f"{_BLOCK[norm.removesuffix('_norm')].format(number + 1)}_bn/{_NORM[part]}")
    raise ValueError(f"{place} is not a variable of the backbone.")
