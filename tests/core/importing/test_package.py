from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from twinsight_core.errors import StartupError
from twinsight_core.images import Preprocessing
from twinsight_core.importing.package import import_package
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilefacenet import MobileFaceNetConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.mobilefacenet import MobileFaceNet

Tensors = dict[str, np.ndarray]
WEIGHTS = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "weights"


def saved(folder: Path, tensors: Tensors) -> Path:
    path = folder / "weights.safetensors"
    save_file(tensors, path)
    return path


def relative_error(answers: object, wanted: np.ndarray) -> float:
    return float(np.max(np.abs(np.asarray(answers) - wanted)) / np.max(np.abs(wanted)))


def test_keras_weights_become_a_classifier_of_their_width(tmp_path: Path, keras_tensors: Tensors) -> None:
    package = import_package(
        architecture="mobilenet_v1",
        weights=saved(tmp_path, keras_tensors),
        out=tmp_path / "models" / "small",
        labels=["ant", "bee", "cat", "dog", "elk"],
        input_px=64,
        licence="Apache-2.0",
    )
    card = package.card
    assert package.name == "small"
    assert card.config == ClassifierConfig(backbone=MobileNetConfig(width_multiplier=0.125), classes=5)
    assert card.preprocessing == Preprocessing(height_px=64, width_px=64, fit="crop")
    assert (card.labels[2], card.licence, card.task) == ("cat", "Apache-2.0", "classification")
    network = package.build()
    assert isinstance(network, Classifier)
    np.testing.assert_array_equal(network.head.kernel[...], keras_tensors["conv_preds/kernel"][0, 0])
    flat = {tuple(place): variable for place, variable in nnx.to_flat_state(nnx.state(network.backbone))}
    depthwise = flat["blocks", 4, "depthwise", "kernel"][...]
    np.testing.assert_array_equal(depthwise, keras_tensors["conv_dw_5/depthwise_kernel"][..., 0])
    variance = flat["blocks", 12, "pointwise_norm", "var"][...]
    np.testing.assert_array_equal(variance, keras_tensors["conv_pw_13_bn/moving_variance"])


def test_facenet_weights_become_an_embedding_model_of_their_size(tmp_path: Path, facenet_tensors: Tensors) -> None:
    package = import_package(
        architecture="mobilefacenet", weights=saved(tmp_path, facenet_tensors), out=tmp_path / "faces"
    )
    assert package.card.config == MobileFaceNetConfig(dimension=8, map_rows=2, map_columns=1)
    assert package.card.preprocessing == Preprocessing(height_px=32, width_px=16)
    assert (package.card.dimension, package.card.labels) == (8, ())
    network = package.build()
    assert isinstance(network, MobileFaceNet)
    slope = network.blocks[14].depthwise.slope
    assert slope is not None
    np.testing.assert_array_equal(slope[...], facenet_tensors["blocks.14.conv.5.weight"])
    np.testing.assert_array_equal(network.whole.conv.kernel[1, 0], facenet_tensors["linear7.conv.weight"][:, 0, 1, 0])


def test_classes_without_names_are_named_by_number(tmp_path: Path, resnet_tensors: Callable[..., Tensors]) -> None:
    weights = saved(tmp_path, resnet_tensors(bottleneck=False))
    package = import_package(architecture="resnet", weights=weights, out=tmp_path / "out")
    assert package.card.labels == ("class 0", "class 1", "class 2")
    assert package.card.preprocessing == Preprocessing(height_px=224, width_px=224, fit="crop")
    assert package.card.description == (
        "resnet, imported from weights.safetensors. The weights are assumed to be those of a plain ResNet without "
        "anti-aliasing, on pixels scaled by ImageNet's mean and standard deviation; the file does not say."
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], r"^`labels` \(of 2\) must be 3 names, one for each class of the weights\.$"),
        (["a", "", "b"], r"^`labels\[1\]` must not be empty\.$"),
        (["a", "b", "a"], r"^`labels` has 'a' twice; names must be distinct\.$"),
    ],
)
def test_labels_that_do_not_fit_are_refused_and_nothing_is_written(
    tmp_path: Path, resnet_tensors: Callable[..., Tensors], labels: list[str], message: str
) -> None:
    weights = saved(tmp_path, resnet_tensors(bottleneck=False))
    with pytest.raises(StartupError, match=message):
        import_package(architecture="resnet", weights=weights, out=tmp_path / "out", labels=labels)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_network_are_refused_with_the_file_and_the_tensor(
    tmp_path: Path, keras_tensors: Tensors
) -> None:
    weights = saved(tmp_path, keras_tensors)
    with pytest.raises(StartupError, match=r"weights\.safetensors: the tensor `conv1\.weight` is missing\.$") as raised:
        import_package(architecture="resnet", weights=weights, out=tmp_path / "out")
    assert raised.value.reason == "WEIGHTS_MISMATCH"
    del keras_tensors["conv_dw_3_bn/gamma"]
    with pytest.raises(
        StartupError, match=r"the tensor `conv_dw_3_bn/gamma` is missing; it must have the shape \(16,\)"
    ):
        import_package(architecture="mobilenet_v1", weights=saved(tmp_path, keras_tensors), out=tmp_path / "out")


def test_a_size_that_the_network_can_not_have_is_refused(
    tmp_path: Path, facenet_tensors: Tensors, resnet_tensors: Callable[..., Tensors]
) -> None:
    faces = saved(tmp_path, facenet_tensors)
    with pytest.raises(StartupError, match=r"^`input_px` \(=64\) must not be given: the weights are for 32x16 pixels"):
        import_package(architecture="mobilefacenet", weights=faces, out=tmp_path / "out", input_px=64)
    weights = saved(tmp_path, resnet_tensors(bottleneck=False))
    with pytest.raises(StartupError, match=r"^`input_px` \(=8\) must lie in 32\.\.4096\.$"):
        import_package(architecture="resnet", weights=weights, out=tmp_path / "out", input_px=8)


def test_the_published_mobilenet_gives_its_reference_logits_and_features(tmp_path: Path) -> None:
    reference_file = WEIGHTS / "mobilenet_v1_075_reference.npz"
    if not reference_file.exists():
        pytest.skip("the data folder with the reference logits is absent")
    package = import_package(
        architecture="mobilenet_v1", weights=WEIGHTS / "mobilenet_v1_075_224.safetensors", out=tmp_path / "out"
    )
    network = package.build()
    assert isinstance(network, Classifier)
    with np.load(reference_file) as reference:
        images, logits, features = (reference[name] for name in ("images", "logits", "features"))
    found = nnx.jit(lambda network, images: (network.logits(images), network.features(images)))(
        network, jnp.asarray(images)
    )
    assert relative_error(found[0], logits) < 1e-4
    assert relative_error(found[1], features) < 1e-4


def test_the_published_mobilefacenet_gives_its_reference_embeddings(tmp_path: Path) -> None:
    reference_file = WEIGHTS / "mobilefacenet_reference.npz"
    if not reference_file.exists():
        pytest.skip("the data folder with the reference embeddings is absent")
    pytest.importorskip("torch", reason="PyTorch, the extra `torch`, is not installed")
    package = import_package(
        architecture="mobilefacenet", weights=WEIGHTS / "mobilefacenet_casia.ckpt", out=tmp_path / "out"
    )
    network = package.build()
    assert isinstance(network, MobileFaceNet)
    with np.load(reference_file) as reference:
        images, embeddings = reference["images"], reference["embeddings"]
    found = nnx.jit(lambda network, images: network.features(images))(network, jnp.asarray(images))
    assert relative_error(found, embeddings) < 1e-4
