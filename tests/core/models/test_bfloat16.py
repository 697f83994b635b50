"""A network in bfloat16 is the same network, but for rounding."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.models.bfloat16 import HasTrunk, in_bfloat16
from twinsight_core.models.configs.architectures import Config
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilefacenet import MobileFaceNetConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.registry import Network, build_network

NARROW = MobileNetConfig(width_multiplier=0.1)
RESIDUAL = ResNetConfig(depths=(1, 1), widths=(8, 16), stem="small", colour="grey")
CONFIGS: dict[str, Config] = {
    "mobilenet": SiameseConfig(backbone=NARROW, dimension=16),
    "resnet": SiameseConfig(backbone=RESIDUAL, dimension=16),
    "classifier": ClassifierConfig(backbone=NARROW, classes=3),
    "mobilefacenet": MobileFaceNetConfig(dimension=16, map_rows=2, map_columns=2),
    "rcnn": FasterRCNNConfig(backbone=NARROW, classes=2),
}
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


def first_network(name: str) -> Network:
    return drawn(partial(build_network, CONFIGS[name]), seed=0)


@pytest.fixture(params=[name for name in CONFIGS if name != "rcnn"])
def network(request: pytest.FixtureRequest) -> Network:
    made = first_network(request.param)
    made.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    return made


def test_the_answer_is_float32_and_the_same_to_rounding(network: Network) -> None:
    wanted = np.asarray(jax.jit(network)(PICTURES))
    for weights in (False, True):
        answer = jax.jit(in_bfloat16(network, weights=weights))(PICTURES)
        assert answer.dtype == jnp.float32
        assert not np.array_equal(answer, wanted), "bfloat16 has 8 bits"
        cosines = np.sum(answer * wanted, axis=1) / np.linalg.norm(answer, axis=1) / np.linalg.norm(wanted, axis=1)
        assert cosines.min() > 0.99


@pytest.mark.parametrize("name", CONFIGS)
def test_every_network_has_a_trunk_and_its_weights_alone_change_their_type(name: str) -> None:
    network = first_network(name)
    assert isinstance(network, HasTrunk)
    served = in_bfloat16(network, weights=True)
    trunk = {id(leaf) for part in served.trunk for _, leaf in nnx.iter_modules(part)}
    assert trunk
    for part in served.trunk:
        for _, variable in nnx.to_flat_state(nnx.state(part, nnx.Param)):
            assert variable[...].dtype == jnp.bfloat16
    for _, variable in nnx.to_flat_state(nnx.state(network, nnx.Param)):
        assert variable[...].dtype == jnp.float32, "the network that was given stays as it is"
    kinds = {variable[...].dtype for _, variable in nnx.to_flat_state(nnx.state(served, nnx.Param))}
    assert jnp.dtype(jnp.float32) in kinds, "the head stays float32"


def test_in_training_the_weights_stay_float32() -> None:
    trained = in_bfloat16(first_network("mobilenet"))
    for _, variable in nnx.to_flat_state(nnx.state(trained, (nnx.Param, nnx.BatchStat))):
        assert variable[...].dtype == jnp.float32


def test_what_has_no_trunk_comes_back_as_it_is() -> None:
    layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    assert in_bfloat16(layer) is layer
