from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.mobilenet import MobileNetV1
from twinsight_core.models.precision import Precision
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.training.trainable import Arrays, Trainable

PICTURES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))


def network() -> SiameseNetwork:
    config = SiameseConfig(backbone=MobileNetConfig(width_multiplier=0.1), dimension=8)
    return drawn(partial(SiameseNetwork, config=config), seed=0)


def stem_type(made: SiameseNetwork) -> object:
    """What the first convolution computes in; None: what it is given."""
    assert isinstance(made.backbone, MobileNetV1)
    return made.backbone.stem.dtype


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_products_are_of_the_precision_in_training_alone_and_weights_are_float32(precision: Precision) -> None:
    trainable = Trainable(network(), precision=precision)
    assert stem_type(trainable.network(trainable.params)) == (jnp.bfloat16 if precision == "bf16" else None)
    assert stem_type(trainable.evaluated(trainable.params)) is None

    def loss(params: Arrays) -> jax.Array:
        seen = trainable.network(params, trainable.stats)
        value = jnp.sum(jnp.square(seen(PICTURES) - 1.0))
        assert all(one.dtype == jnp.float32 for one in trainable.stats_of(seen).values())
        return value

    gradient = jax.eval_shape(jax.grad(loss), trainable.params)  # traced, which takes a moment, and not computed
    assert {one.dtype for one in gradient.values()} == {jnp.dtype(jnp.float32)}


def test_on_a_cpu_training_is_in_float32() -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("JAX has an accelerator")
    trainable = Trainable(network())
    assert stem_type(trainable.network(trainable.params)) is None
