"""Creates a model package from a weight file of another project.

1. The file is read (`weights`).
2. The architecture's module infers the configuration from names and shapes and fills the network, tensor by tensor.
3. The card is written with the caller's texts, and the package is put in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from twinsight_core.errors import StartupError
from twinsight_core.images import Preprocessing
from twinsight_core.importing.keras_mobilenet import import_keras_mobilenet
from twinsight_core.importing.mobilefacenet import import_mobilefacenet
from twinsight_core.importing.resnet import import_resnet
from twinsight_core.importing.weights import read_weights
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilefacenet import STRIDE, MobileFaceNetConfig
from twinsight_core.models.mobilefacenet import MobileFaceNet
from twinsight_core.packages import MAX_INPUT_PX, ModelCard, ModelPackage, label_count, save_package

Importable = Literal["mobilefacenet", "mobilenet_v1", "resnet"]
NOT_STATED = "Not stated."
CLASSIFIER_PX = 224
"""Side of the input that ImageNet's classifiers are trained for."""

_IMPORTERS: dict[
    Importable,
    Callable[
        [Mapping[str, np.ndarray]], tuple[ClassifierConfig, Classifier] | tuple[MobileFaceNetConfig, MobileFaceNet]
    ],
] = {"mobilefacenet": import_mobilefacenet, "mobilenet_v1": import_keras_mobilenet, "resnet": import_resnet}
_TAKEN_FOR: dict[Importable, str] = {
    "mobilefacenet": " It was trained on cropped and aligned faces (eyes level, 112 pixels high and 96 wide) and is "
    "less accurate on whole pictures; give the face as the region of a picture.",
    "resnet": " The weights are assumed to be those of a plain ResNet without anti-aliasing, on pixels scaled by "
    "ImageNet's mean and standard deviation; the file does not say.",
}
IMPORTABLE: tuple[Importable, ...] = tuple(_IMPORTERS)


def import_package(
    *,
    architecture: Importable,
    weights: Path,
    out: Path,
    labels: Sequence[str] | None = None,
    input_px: int | None = None,
    licence: str = NOT_STATED,
    training_data: str = NOT_STATED,
    description: str = "",
) -> ModelPackage:
    """Writes the package of a weight file, replacing an existing one, and returns it.

    Args:
        architecture: of the weights: "mobilefacenet" and "resnet" with PyTorch's names, "mobilenet_v1" with those of
            Keras Applications. Blur pooling has no tensors: such a network is taken for a plain "resnet".
        weights: the file: safetensors, or PyTorch's.
        out: the package's folder; its name is the model's.
        labels: names of the classes by number; None names them by their numbers. Only for classifiers.
        input_px: side of the input, 32..4096; None for the 224 of ImageNet's classifiers. Only for classifiers.
        licence: licence of the weights.
        training_data: what they were trained on.
        description: what the model is for; if empty, it names the architecture, the file and what the file does not
            say.

    Raises:
        StartupError: the file can't be read or belongs to another network, or an argument does not fit it.
    """
    tensors = read_weights(weights)
    try:
        config, network = _IMPORTERS[architecture](tensors)
    except ValueError as error:
        raise StartupError(f"{weights}: {error}", reason="WEIGHTS_MISMATCH") from error
    card = ModelCard(
        architecture="mobilefacenet" if isinstance(config, MobileFaceNetConfig) else "classifier",
        config=config,
        task=config.TASK,
        preprocessing=_preprocessing(config, input_px),
        dimension=config.dimension if isinstance(config, MobileFaceNetConfig) else 0,
        licence=licence,
        training_data=training_data,
        description=description or f"{architecture}, imported from {weights.name}.{_TAKEN_FOR.get(architecture, '')}",
        labels=_labels(labels, label_count(config)),
        recipe=f"twinsight import --architecture {architecture} --weights {weights.name}",
    )
    return save_package(out, card, network)


def _preprocessing(config: ClassifierConfig | MobileFaceNetConfig, input_px: int | None) -> Preprocessing:
    if isinstance(config, MobileFaceNetConfig):
        height, width = config.map_rows * STRIDE, config.map_columns * STRIDE
        if input_px is not None:
            raise StartupError(
                f"`input_px` (={input_px}) must not be given: the weights are for {height}x{width} pixels.",
                reason="IMPORT_OPTION",
            )
        return Preprocessing(height_px=height, width_px=width)
    side = CLASSIFIER_PX if input_px is None else input_px
    if not 32 <= side <= MAX_INPUT_PX:
        raise StartupError(f"`input_px` (={side}) must lie in 32..{MAX_INPUT_PX}.", reason="IMPORT_OPTION")
    return Preprocessing(height_px=side, width_px=side, fit="crop")


def _labels(labels: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if labels is None:
        return tuple(f"class {number}" for number in range(count))
    if len(labels) != count:
        raise StartupError(
            f"`labels` (of {len(labels)}) must be {count} names, one for each class of the weights.",
            reason="IMPORT_LABELS",
        )
    if "" in labels:
        raise StartupError(f"`labels[{list(labels).index('')}]` must not be empty.", reason="IMPORT_LABELS")
    if len(set(labels)) != count:
        twice = next(label for number, label in enumerate(labels) if label in labels[:number])
        raise StartupError(f"`labels` has {twice!r} twice; names must be distinct.", reason="IMPORT_LABELS")
    return tuple(labels)
