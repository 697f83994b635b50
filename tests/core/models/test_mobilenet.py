from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from twinsight_core.errors import StartupError
from twinsight_core.importing.keras_mobilenet import load_keras_mobilenet
from twinsight_core.models.configs.mobilenet import BLOCKS
from twinsight_core.models.mobilenet import MobileNetV1

WEIGHTS = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "weights"


def test_the_map_is_a_thirty_second_of_the_picture() -> None:
    network = nnx.eval_shape(lambda: MobileNetV1(width_multiplier=0.25, rngs=nnx.Rngs(0)))
    assert network.channels == 256
    out = nnx.eval_shape(lambda network: network(jnp.zeros((2, 64, 96, 3))), network)
    assert out.shape == (2, 2, 3, 256)


def test_there_are_thirteen_blocks_and_five_halvings_with_the_stem() -> None:
    assert len(BLOCKS) == 13
    assert 2 * int(np.prod([stride for _, stride in BLOCKS])) == 32


def test_the_full_network_has_the_papers_parameters() -> None:
    network = nnx.eval_shape(lambda: MobileNetV1(rngs=nnx.Rngs(0)))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    # 4,253,864 of Keras Applications less the classifier's 1,025,000 and the 21,888 moving means and variances.
    assert count == 4_253_864 - 1_025_000 - 21_888


def test_imported_weights_give_the_reference_features() -> None:
    reference_file = WEIGHTS / "mobilenet_v1_075_reference.npz"
    if not reference_file.exists():
        pytest.skip("the data folder with the reference features is absent")
    network = nnx.eval_shape(lambda: MobileNetV1(width_multiplier=0.75, rngs=nnx.Rngs(0)))
    load_keras_mobilenet(network, WEIGHTS / "mobilenet_v1_075_224.safetensors")
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    with np.load(reference_file) as reference:
        images, expected = reference["images"][:2], reference["features"][:2]
    graph, state = nnx.split(network)

    @jax.jit
    def features(state: nnx.GraphState[jax.Array], images: jax.Array) -> jax.Array:
        return jnp.mean(nnx.merge(graph, state)(images), axis=(1, 2))

    np.testing.assert_allclose(features(state, images), expected, atol=1e-4)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    network = nnx.eval_shape(lambda: MobileNetV1(width_multiplier=0.1, rngs=nnx.Rngs(0)))
    path = tmp_path / "weights.safetensors"
    save_file({"conv1/kernel": np.zeros((3, 3, 3, 4), np.float32)}, path)
    with pytest.raises(StartupError, match=r"the tensor `conv_dw_1/depthwise_kernel` is missing; it must have"):
        load_keras_mobilenet(network, path)
    save_file({"conv_dw_1/depthwise_kernel": np.zeros((3, 3, 8, 1), np.float32)}, path)
    with pytest.raises(StartupError, match=r"has the shape \(3, 3, 8, 1\); it must be \(3, 3, 3, 1\)\.$"):
        load_keras_mobilenet(network, path)
