from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.json_fields import JsonFields
from twinsight_core.models.configs.architectures import ARCHITECTURES
from twinsight_core.models.configs.mobilefacenet import MobileFaceNetConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.mobilefacenet import STAGES, Bottleneck, GlobalDepthwiseConv, MobileFaceNet, NormedLayer
from twinsight_core.models.registry import build_network

SMALL = MobileFaceNetConfig(dimension=4, map_rows=2, map_columns=1)


def test_five_stages_divide_the_picture_by_sixteen_and_end_at_the_paper_s_widths() -> None:
    assert 2 * int(np.prod([stride for *_, stride in STAGES])) == 16
    assert sum(depth for _, _, depth, _ in STAGES) == 15
    assert STAGES[-1][1] == 128


def test_the_network_has_a_million_parameters_as_in_the_paper() -> None:
    network = nnx.eval_shape(lambda: MobileFaceNet(config=MobileFaceNetConfig(), rngs=nnx.Rngs(0)))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert 0.9e6 < count < 1.0e6 + 5e4


def test_embeddings_have_length_one_and_features_point_the_same_way() -> None:
    network = drawn(partial(MobileFaceNet, config=SMALL), seed=0)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 16, 3), dtype=np.uint8))
    answers, features = nnx.jit(lambda network, images: (network(images), network.features(images)))(network, images)
    assert answers.shape == (2, *SMALL.answer_shape)
    np.testing.assert_allclose(np.linalg.norm(answers, axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(answers, features / np.linalg.norm(features, axis=-1, keepdims=True), atol=1e-5)


def test_a_picture_of_another_size_is_refused_with_both_sizes() -> None:
    network = drawn(partial(MobileFaceNet, config=SMALL), seed=0)
    with pytest.raises(ValueError, match=r"^`images` must be 32 pixels high and 16 wide: the last map has 2 rows"):
        nnx.eval_shape(lambda network: network(jnp.zeros((1, 32, 32, 3))), network)


def test_the_global_convolution_weighs_each_place_of_each_channel() -> None:
    layer = GlobalDepthwiseConv(rows=1, columns=2, channels=2, rngs=nnx.Rngs(0))
    layer.kernel = nnx.Param(jnp.array([[[1.0, 10.0], [2.0, 20.0]]]))
    np.testing.assert_allclose(layer(jnp.array([[[[1.0, 2.0], [3.0, 4.0]]]])), [[1 + 6, 20 + 80]])


def test_below_zero_a_channel_is_multiplied_by_its_slope() -> None:
    linear = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))
    linear.kernel = nnx.Param(jnp.eye(2))
    layer = NormedLayer(linear, channels=2, rngs=nnx.Rngs(0))
    layer.slope = nnx.Param(jnp.array([0.5, 0.1]))
    layer.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    np.testing.assert_allclose(layer(jnp.array([[-2.0, -2.0], [3.0, 3.0]])), [[-1.0, -0.2], [3.0, 3.0]], rtol=1e-4)


@pytest.mark.parametrize(("channels_out", "stride", "adds"), [(4, 1, True), (4, 2, False), (6, 1, False)])
def test_a_bottleneck_adds_to_its_input_only_where_the_shapes_are_alike(
    channels_out: int, stride: int, adds: bool
) -> None:
    block = Bottleneck(channels_in=4, channels_out=channels_out, expansion=2, stride=stride, rngs=nnx.Rngs(0))
    block.project.norm.scale = nnx.Param(jnp.zeros(channels_out))
    block.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 4)), jnp.float32)
    y = block(x)
    # With the last layer at zero what is left is the input, or nothing.
    np.testing.assert_array_equal(y, x if adds else jnp.zeros((1, 4 // stride, 4 // stride, channels_out)))


def test_the_configuration_goes_to_json_and_back_and_builds() -> None:
    fields = JsonFields(SMALL.to_json())
    assert ARCHITECTURES["mobilefacenet"].from_json(fields) == SMALL
    assert isinstance(nnx.eval_shape(lambda: build_network(SMALL, rngs=nnx.Rngs(0))), MobileFaceNet)


@pytest.mark.parametrize(
    ("name", "value", "rule"), [("dimension", 1, "2..4096"), ("map_rows", 0, "1..64"), ("map_columns", 65, "1..64")]
)
def test_a_value_out_of_range_is_refused(name: str, value: int, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"^`{name}` \(={value}\) must lie in {rule}\.$"):
        MobileFaceNetConfig(**{name: value})
