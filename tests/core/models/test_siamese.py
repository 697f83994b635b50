import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from twinsight_core.json_fields import JsonFields
from twinsight_core.models.configs.backbones import BackboneConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.siamese import SiameseNetwork, pair_distance

TINY = SiameseConfig(backbone=MobileNetConfig(width_multiplier=0.1), dimension=8)


class Compiled:
    """A tiny network of random weights, jitted: op by op, making and running it would compile each operation."""

    def __init__(self) -> None:
        graph, shapes = nnx.split(nnx.eval_shape(lambda: SiameseNetwork(config=TINY, rngs=nnx.Rngs(0))))
        rng = np.random.default_rng(0)

        def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
            values = rng.normal(0, 0.5, leaf.shape) if leaf.ndim > 1 else rng.uniform(0.5, 1.5, leaf.shape)
            return jnp.asarray(values, jnp.float32)

        made = nnx.merge(graph, jax.tree.map(fill, shapes))
        made.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
        state = nnx.state(made)
        graph = nnx.graphdef(made)
        self.embed = jax.jit(nnx.merge(graph, state))
        self.compare = jax.jit(lambda left, right: nnx.merge(graph, state).compare(left, right))


@pytest.fixture(scope="module")
def network() -> Compiled:
    return Compiled()


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_embeddings_are_unit_vectors_of_the_dimension(network: Compiled) -> None:
    embeddings = network.embed(jnp.asarray(pictures(2)))
    assert embeddings.shape == (2, 8)
    assert embeddings.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=1), 1.0, atol=1e-6)


def test_equal_pictures_are_at_distance_zero_and_sides_can_be_swapped(network: Compiled) -> None:
    left, right = jnp.asarray(pictures(2)), jnp.asarray(pictures(2, seed=1))
    both = network.compare(left, right)
    swapped = network.compare(right, left)
    np.testing.assert_allclose(both.cosine, swapped.cosine, atol=1e-6)
    np.testing.assert_allclose(both.euclidean, swapped.euclidean, atol=1e-6)
    alike = network.compare(left, left)
    np.testing.assert_allclose(alike.euclidean, 0.0, atol=1e-6)
    np.testing.assert_allclose(alike.cosine, 1.0, atol=1e-6)


def test_a_pair_goes_through_the_weights_that_embed_one_side(network: Compiled) -> None:
    left, right = jnp.asarray(pictures(2)), jnp.asarray(pictures(2, seed=1))
    np.testing.assert_allclose(
        network.compare(left, right).cosine, jnp.sum(network.embed(left) * network.embed(right), axis=1), atol=1e-6
    )


def test_distances_worked_by_hand() -> None:
    left = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    right = jnp.array([[0.6, 0.8], [-1.0, 0.0], [1.0, 0.0]])
    distance = pair_distance(left, right)
    np.testing.assert_allclose(distance.cosine, [0.6, -1.0, 1.0], atol=1e-7)
    np.testing.assert_allclose(distance.euclidean, [np.sqrt(0.8), 2.0, 0.0], atol=1e-6)


def test_the_gradient_at_distance_zero_is_zero() -> None:
    unit = jnp.array([[0.6, 0.8]])
    gradient = jax.grad(lambda left: pair_distance(left, unit).euclidean.sum())(unit)
    np.testing.assert_array_equal(gradient, 0.0)


@settings(deadline=None)
@given(hnp.arrays(np.float32, (2, 5), elements=st.floats(-1, 1, width=32)))
def test_euclidean_distance_and_cosine_agree_for_unit_vectors(rows: np.ndarray) -> None:
    rows = rows + np.array([2.0, 0, 0, 0, 0], np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distance = pair_distance(jnp.asarray(unit[:1]), jnp.asarray(unit[1:]))
    np.testing.assert_allclose(distance.euclidean**2, 2 - 2 * distance.cosine, atol=1e-5)


def test_flattening_keeps_where_things_are() -> None:
    config = SiameseConfig(
        backbone=ResNetConfig(depths=(1,), widths=(4,), stem="small"), dimension=3, pooling="flatten", map_px=6
    )
    network = nnx.eval_shape(lambda: SiameseNetwork(config=config, rngs=nnx.Rngs(0)))
    assert network.head.in_features == 4 * 36
    out = nnx.eval_shape(lambda network: network(jnp.zeros((2, 6, 6, 3))), network)
    assert out.shape == (2, 3)


@pytest.mark.parametrize("backbone", [MobileNetConfig(), ResNetConfig(block="bottleneck", colour="grey")])
def test_a_configuration_survives_json(backbone: BackboneConfig) -> None:
    config = SiameseConfig(backbone=backbone, dimension=8, pooling="flatten", map_px=4)
    assert SiameseConfig.from_json(JsonFields(json.loads(json.dumps(config.to_json())))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": {"name": "vgg"}}, "`backbone.name` (='vgg') must be one of `mobilenet_v1`, `resnet`."),
        (
            {"backbone": {"name": "mobilenet_v1", "width_multiplier": 0.0}},
            "`width_multiplier` (=0.0) must lie in 0.1..2.",
        ),
        ({"backbone": {"name": "mobilenet_v1"}}, "`backbone.width_multiplier` is missing."),
        ({"dimension": 1}, "`dimension` (=1) must be an integer in 2..4096."),
        ({"map_px": 2}, "`map_px` (=2) must be above 0 for `pooling` flatten, and 0 for mean."),
    ],
)
def test_a_wrong_configuration_names_its_rule(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SiameseConfig.from_json(JsonFields(TINY.to_json() | change))
