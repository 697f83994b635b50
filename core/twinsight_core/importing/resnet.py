"""Residual networks with the names of torchvision and timm (`layer1.0.downsample.0.weight`).

Only plain ones, on pixels scaled by ImageNet's mean and standard deviation. Names and shapes do not distinguish them
from timm's with anti-aliasing (`resnetblur...`, `resnetaa...`), which would be computed without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from flax import nnx

from twinsight_core.importing.filling import (
    AS_IT_IS,
    TORCH_CONV,
    TORCH_COUNTER,
    TORCH_LINEAR,
    TORCH_NORM,
    Place,
    Source,
    fill,
    shape_of,
)
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.resnet import ResNetConfig

_STEMS: dict[tuple[int, ...], Literal["imagenet", "small"]] = {(7, 7): "imagenet", (3, 3): "small"}
_BLOCK = re.compile(r"layer([1-9])\.(\d+)\.")


def import_resnet(tensors: Mapping[str, np.ndarray]) -> tuple[ClassifierConfig, Classifier]:
    """Returns the classifier that the tensors belong to; kind, number and width of its blocks follow from them.

    Raises:
        ValueError: they are of another network.
    """
    backbone = _backbone_config(tensors)
    config = ClassifierConfig(backbone=backbone, classes=shape_of(tensors, "fc.weight", rank=2)[0])
    network = nnx.eval_shape(lambda: Classifier(config=config, rngs=nnx.Rngs(0)))
    fill(network, tensors, _source_in(backbone), ignored=lambda name: name.endswith(TORCH_COUNTER))
    return config, network


def _backbone_config(tensors: Mapping[str, np.ndarray]) -> ResNetConfig:
    window = shape_of(tensors, "conv1.weight", rank=4)[2:]
    if window not in _STEMS:
        raise ValueError(f"the tensor `conv1.weight` has a window of {window}; it must be (7, 7) or (3, 3).")
    depths: dict[int, int] = {}
    for name in tensors:
        if found := _BLOCK.match(name):
            stage, number = int(found[1]), int(found[2])
            depths[stage] = max(depths.get(stage, 0), number + 1)
    if sorted(depths) != list(range(1, len(depths) + 1)) or not depths:
        raise ValueError("the stages' tensors `layer1.0.…`, `layer2.0.…` must be present without gaps.")
    return ResNetConfig(
        block="bottleneck" if "layer1.0.conv3.weight" in tensors else "basic",
        depths=tuple(depths[stage] for stage in sorted(depths)),
        widths=tuple(shape_of(tensors, f"layer{stage}.0.conv1.weight", rank=4)[0] for stage in sorted(depths)),
        stem=_STEMS[window],
    )


def _source_in(config: ResNetConfig) -> Callable[[Place], Source]:
    """Returns where the variables of a classifier on this backbone are."""
    blocks = [f"layer{stage}.{number}" for stage, depth in enumerate(config.depths, start=1) for number in range(depth)]

    def source(place: Place) -> Source:
        """Where the variable at a path such as ("backbone", "blocks", 0, "layers", 1, "norm", "scale") is."""
        match place:
            case ("head", "kernel"):
                return Source("fc.weight", TORCH_LINEAR)
            case ("head", "bias"):
                return Source("fc.bias", AS_IT_IS)
            case ("backbone", "stem", *rest):
                return _layer(("conv1", "bn1"), rest)
            case ("backbone", "blocks", int(block), "layers", int(layer), *rest):
                return _layer((f"{blocks[block]}.conv{layer + 1}", f"{blocks[block]}.bn{layer + 1}"), rest)
            case ("backbone", "blocks", int(block), "shortcut", *rest):
                return _layer((f"{blocks[block]}.downsample.0", f"{blocks[block]}.downsample.1"), rest)
        raise ValueError(f"{place} is not a variable of the classifier.")

    return source


def _layer(names: tuple[str, str], rest: list[object]) -> Source:
    """Where a variable of a convolution and its batch norm is; `names` are those of the two."""
    match rest:
        case ["conv", "kernel"]:
            return Source(f"{names[0]}.weight", TORCH_CONV)
        case ["norm", str(part)]:
            return Source(f"{names[1]}.{TORCH_NORM[part]}", AS_IT_IS)
    raise ValueError(f"{rest} is not a variable of a convolution with batch norm.")
