"""Products of float32 numbers that no device may round to less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from core.models.test_bfloat16 import CONFIGS, PICTURES
from twinsight_core.models.bfloat16 import in_bfloat16
from twinsight_core.models.float32 import in_float32
from twinsight_core.models.registry import Network, build_network

Run = Callable[[nnx.GraphState[jax.Array], jax.Array], jax.Array]
HIGHEST = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)


def build(name: str) -> Network:
    return build_network(CONFIGS[name], rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_product_of_a_network_is_float32(name: str) -> None:
    precisions = [one.params["precision"] for one in _products(partial(build, name), in_float32)]

    assert precisions
    assert set(precisions) == {HIGHEST}
    assert None in [one.params["precision"] for one in _products(partial(build, name))], "JAX rounds unless it is told"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_network_served_in_bfloat16_has_a_head_of_float32(name: str) -> None:
    products = _products(lambda: in_bfloat16(build(name), weights=True), in_loops=False)
    of_float32 = [
        one.params["precision"] for one in products if "f32" in one.invars[0].aval.str_short(short_dtypes=True)
    ]

    assert of_float32
    assert set(of_float32) == {HIGHEST}


def test_it_can_be_called_and_keeps_the_name() -> None:
    @in_float32
    def doubled(x: np.ndarray, *, times: int) -> np.ndarray:
        return x * times

    assert doubled(np.array([1, 2]), times=2).tolist() == [2, 4]
    assert doubled.__name__ == "doubled"


def _products(
    make: Callable[[], Network], traced: Callable[[Run], Run] = lambda run: run, *, in_loops: bool = True
) -> list[JaxprEqn]:
    """Returns the matrix products and convolutions of a network, of which nothing is computed.

    Those in loops are of non-maximum suppression: of zeros and ones, exact in any type.
    """
    graph, state = nnx.split(nnx.eval_shape(make))

    def run(state: nnx.GraphState[jax.Array], images: jax.Array) -> jax.Array:
        network = nnx.merge(graph, state)
        network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
        return network(images)

    closed = jax.make_jaxpr(traced(run))(state, jnp.asarray(PICTURES))
    equations = _equations(closed.jaxpr, in_loops=in_loops)
    return [one for one in equations if one.primitive.name in {"dot_general", "conv_general_dilated"}]


def _equations(jaxpr: Jaxpr, *, in_loops: bool) -> Iterator[JaxprEqn]:
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name == "while" and not in_loops:
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                if isinstance(inner, ClosedJaxpr):
                    yield from _equations(inner.jaxpr, in_loops=in_loops)
                elif isinstance(inner, Jaxpr):
                    yield from _equations(inner, in_loops=in_loops)
