"""Synthetic weight files with the names and layouts of other projects, written out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

Tensors = dict[str, np.ndarray]

# Pointwise and depthwise blocks of MobileNetV1 at width 0.125, and (channels in, channels out, expansion) of
# MobileFaceNet's fifteen bottlenecks.
MOBILENET = [8, 16, 16, 32, 32, 64, 64, 64, 64, 64, 64, 128, 128]
FACENET = [(64, 64, 2)] * 5 + [(64, 128, 4)] + [(128, 128, 2)] * 6 + [(128, 128, 4)] + [(128, 128, 2)] * 2


class Writer:
    """Collects tensors of random values."""

    def __init__(self) -> None:
        self.tensors: Tensors = {}
        self._rng = np.random.default_rng(0)

    def put(self, name: str, *shape: int, positive: bool = False) -> None:
        fan = max(int(np.prod(shape)) // max(shape), 1)
        values = self._rng.uniform(0.5, 1.5, shape) if positive else self._rng.normal(0, fan**-0.5, shape)
        self.tensors[name] = values.astype(np.float32)

    def torch_norm(self, name: str, channels: int) -> None:
        for part in ("weight", "running_var"):
            self.put(f"{name}.{part}", channels, positive=True)
        for part in ("bias", "running_mean"):
            self.put(f"{name}.{part}", channels)
        self.tensors[f"{name}.num_batches_tracked"] = np.array(7)

    def keras_norm(self, name: str, channels: int) -> None:
        for part in ("gamma", "moving_variance"):
            self.put(f"{name}/{part}", channels, positive=True)
        for part in ("beta", "moving_mean"):
            self.put(f"{name}/{part}", channels)


@pytest.fixture
def keras_tensors() -> Tensors:
    """MobileNetV1 0.125 with five classes."""
    writer, channels = Writer(), 4
    writer.put("conv1/kernel", 3, 3, 3, channels)
    writer.keras_norm("conv1_bn", channels)
    for number, out in enumerate(MOBILENET, start=1):
        writer.put(f"conv_dw_{number}/depthwise_kernel", 3, 3, channels, 1)
        writer.keras_norm(f"conv_dw_{number}_bn", channels)
        writer.put(f"conv_pw_{number}/kernel", 1, 1, channels, out)
        writer.keras_norm(f"conv_pw_{number}_bn", out)
        channels = out
    writer.put("conv_preds/kernel", 1, 1, channels, 5)
    writer.put("conv_preds/bias", 5)
    return writer.tensors


@pytest.fixture
def facenet_tensors() -> Tensors:
    """MobileFaceNet of eight components for faces of 32x16 pixels."""
    writer = Writer()
    for name, shape in {
        "conv1": (64, 3, 3, 3),
        "dw_conv1": (64, 1, 3, 3),
        "conv2": (512, 128, 1, 1),
        "linear7": (512, 1, 2, 1),
        "linear1": (8, 512, 1, 1),
    }.items():
        writer.put(f"{name}.conv.weight", *shape)
        writer.torch_norm(f"{name}.bn", shape[0])
        if not name.startswith("linear"):
            writer.put(f"{name}.prelu.weight", shape[0])
    for number, (channels_in, out, expansion) in enumerate(FACENET):
        name, inside = f"blocks.{number}.conv", channels_in * expansion
        for place, shape in ((0, (inside, channels_in, 1, 1)), (3, (inside, 1, 3, 3)), (6, (out, inside, 1, 1))):
            writer.put(f"{name}.{place}.weight", *shape)
            writer.torch_norm(f"{name}.{place + 1}", shape[0])
            if place != 6:
                writer.put(f"{name}.{place + 2}.weight", inside)
    return writer.tensors


@pytest.fixture
def resnet_tensors() -> Callable[..., Tensors]:
    """A residual network of any size; defaults to one of two stages and three classes."""

    def tensors(
        *, bottleneck: bool, depths: tuple[int, ...] = (2, 1), widths: tuple[int, ...] = (4, 6), window: int = 7
    ) -> Tensors:
        writer, channels = Writer(), widths[0]
        writer.put("conv1.weight", channels, 3, window, window)
        writer.torch_norm("bn1", channels)
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            out = width * 4 if bottleneck else width
            for number in range(depth):
                name = f"layer{stage}.{number}"
                shapes = (
                    [(width, channels, 1, 1), (width, width, 3, 3), (out, width, 1, 1)]
                    if bottleneck
                    else [(width, channels, 3, 3), (out, width, 3, 3)]
                )
                for layer, shape in enumerate(shapes, start=1):
                    writer.put(f"{name}.conv{layer}.weight", *shape)
                    writer.torch_norm(f"{name}.bn{layer}", shape[0])
                if number == 0 and (stage > 1 or channels != out):
                    writer.put(f"{name}.downsample.0.weight", out, channels, 1, 1)
                    writer.torch_norm(f"{name}.downsample.1", out)
                channels = out
        writer.put("fc.weight", 3, channels)
        writer.put("fc.bias", 3)
        return writer.tensors

    return tensors
