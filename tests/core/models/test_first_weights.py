from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from twinsight_core.host.compilation import CompilationCounter
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.first_weights import drawn

BACKBONE = ResNetConfig(depths=(1,), widths=(4,), stem="small")
MAKE = partial(Classifier, config=ClassifierConfig(backbone=BACKBONE, classes=3))


def weights(network: Classifier) -> dict[str, np.ndarray]:
    """All tensors of a network, by their place."""
    return {".".join(map(str, path)): np.asarray(value[...]) for path, value in nnx.to_flat_state(nnx.state(network))}


def test_one_program_draws_what_the_constructor_draws() -> None:
    compiled = CompilationCounter()
    network = drawn(MAKE, seed=3)
    assert compiled.count == 1
    expected = weights(MAKE(rngs=nnx.Rngs(3)))
    found = weights(network)
    assert found.keys() == expected.keys()
    for place, value in expected.items():
        np.testing.assert_allclose(found[place], value, rtol=1e-5, atol=1e-6, err_msg=place)


def test_another_seed_draws_other_weights() -> None:
    first, second = (drawn(MAKE, seed=seed).head.kernel[...] for seed in (0, 1))
    assert not np.allclose(first, second)


def test_what_is_given_is_not_drawn() -> None:
    source, other = drawn(MAKE, seed=0), drawn(MAKE, seed=1)
    network = drawn(MAKE, seed=1, given=nnx.State({"backbone": nnx.state(source.backbone)}))
    for place, value in weights(network).items():
        expected = other if place.startswith("head") else source
        np.testing.assert_array_equal(value, weights(expected)[place], err_msg=place)


@pytest.mark.parametrize("place", ["head", "tail"])
def test_what_has_no_place_is_refused(place: str) -> None:
    given: nnx.State[str, object] = nnx.State({place: nnx.State({"kernel": nnx.Param(jax.numpy.ones((2, 2)))})})
    with pytest.raises(ValueError, match=rf"no place for {place}\.kernel, \(2, 2\)"):
        drawn(MAKE, seed=0, given=given)
