"""The importer and the network against a residual network in float64 NumPy that reads PyTorch's names and layouts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.importing.resnet import import_resnet
from twinsight_core.models.configs.resnet import ResNetConfig

Tensors = dict[str, np.ndarray]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def windows(x: np.ndarray, side: int, stride: int, fill: float = 0.0) -> np.ndarray:
    """[batch, channels, rows, columns] -> the same and [side, side] for each place."""
    padded = np.pad(x, ((0, 0), (0, 0), (side // 2,) * 2, (side // 2,) * 2), constant_values=fill)
    seen: np.ndarray = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    return seen[:, :, ::stride, ::stride]


def layer(tensors: Tensors, x: np.ndarray, conv: str, norm: str, *, stride: int) -> np.ndarray:
    kernel = tensors[f"{conv}.weight"].astype(np.float64)
    y = np.einsum("bcyxij,ocij->boyx", windows(x, kernel.shape[-1], stride), kernel)
    weight, bias, mean, var = (
        tensors[f"{norm}.{part}"].astype(np.float64)[:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    normed: np.ndarray = (y - mean) / np.sqrt(var + 1e-5) * weight + bias
    return normed


def reference_logits(tensors: Tensors, images: np.ndarray, *, small: bool) -> np.ndarray:
    x = ((images / 255.0 - MEAN) / STD).transpose(0, 3, 1, 2)
    x = np.maximum(layer(tensors, x, "conv1", "bn1", stride=1 if small else 2), 0)
    if not small:
        x = windows(x, 3, 2, fill=-np.inf).max(axis=(-1, -2))
    for stage in count(1):
        if f"layer{stage}.0.conv1.weight" not in tensors:
            break
        for number in count():
            name = f"layer{stage}.{number}"
            if f"{name}.conv1.weight" not in tensors:
                break
            stride = 2 if stage > 1 and number == 0 else 1
            last = 3 if f"{name}.conv3.weight" in tensors else 2
            y = x
            for one in range(1, last + 1):
                # The stride is in the first 3x3 convolution.
                step = stride if one == last - 1 else 1
                y = layer(tensors, y, f"{name}.conv{one}", f"{name}.bn{one}", stride=step)
                y = np.maximum(y, 0) if one < last else y
            if f"{name}.downsample.0.weight" in tensors:
                x = layer(tensors, x, f"{name}.downsample.0", f"{name}.downsample.1", stride=stride)
            x = np.maximum(x + y, 0)
    logits: np.ndarray = x.mean(axis=(2, 3)) @ tensors["fc.weight"].T.astype(np.float64) + tensors["fc.bias"]
    return logits


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("window", [7, 3])
def test_an_imported_network_computes_what_numpy_does(
    resnet_tensors: Callable[..., Tensors], bottleneck: bool, window: int
) -> None:
    tensors = resnet_tensors(bottleneck=bottleneck, window=window)
    config, network = import_resnet(tensors)
    assert config.backbone == ResNetConfig(
        block="bottleneck" if bottleneck else "basic",
        depths=(2, 1),
        widths=(4, 6),
        stem="imagenet" if window == 7 else "small",
    )
    assert config.classes == 3
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 21, 3), dtype=np.uint8)
    wanted = reference_logits(tensors, images, small=window == 3)
    logits = nnx.jit(lambda network, images: network.logits(images))(network, jnp.asarray(images))
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("bottleneck", "depths"),
    [(False, (2, 2, 2, 2)), (True, (3, 4, 6, 3))],
)
def test_the_depths_of_the_known_networks_are_inferred(
    resnet_tensors: Callable[..., Tensors], bottleneck: bool, depths: tuple[int, ...]
) -> None:
    config, _ = import_resnet(resnet_tensors(bottleneck=bottleneck, depths=depths, widths=(2, 3, 4, 5)))
    assert isinstance(config.backbone, ResNetConfig)
    assert config.backbone.depths == depths
    assert config.backbone.widths == (2, 3, 4, 5)


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named_with_shapes(
    resnet_tensors: Callable[..., Tensors],
) -> None:
    tensors = resnet_tensors(bottleneck=False)
    shortcut = "layer2.0.downsample.0.weight"
    without = {name: tensor for name, tensor in tensors.items() if name != shortcut}
    with pytest.raises(ValueError, match=rf"^the tensor `{shortcut}` is missing; it must have the shape \(6, 4, 1"):
        import_resnet(without)
    with pytest.raises(ValueError, match=r"^the tensor `layer1.0.se.weight` with the shape \(4,\) is not part of the"):
        import_resnet(tensors | {"layer1.0.se.weight": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match=r"^the tensor `layer1.1.bn2.bias` has the shape \(5,\); it must be \(4,\)\.$"):
        import_resnet(tensors | {"layer1.1.bn2.bias": np.zeros(5, np.float32)})


def test_a_stem_of_another_window_and_a_missing_stage_are_refused(resnet_tensors: Callable[..., Tensors]) -> None:
    with pytest.raises(ValueError, match=r"^the tensor `conv1.weight` has a window of \(5, 5\); it must be \(7, 7\)"):
        import_resnet(resnet_tensors(bottleneck=False, window=5))
    tensors = resnet_tensors(bottleneck=False)
    with pytest.raises(ValueError, match=r"must be present without gaps\.$"):
        import_resnet({name: one for name, one in tensors.items() if not name.startswith("layer1")})
