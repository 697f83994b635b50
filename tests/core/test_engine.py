from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from twinsight_core.engine import Engine
from twinsight_core.executors.base import Executor
from twinsight_core.executors.xla import XlaExecutor
from twinsight_core.host.compilation import CompilationCounter
from twinsight_core.images import Preprocessing

INPUT = Preprocessing(height_px=4, width_px=6)


class Sums:
    """An executor whose vector is the sum of the picture's channels; remembers the batches."""

    name = "sums"
    is_single_threaded = False

    def __init__(self, *, on_host: bool = False, lanes: Sequence[Executor] = ()) -> None:
        self.prepared: list[int] = []
        self.computed: list[np.ndarray] = []
        self.on_host = on_host
        self._lanes = lanes or [self]

    def lanes(self) -> Sequence[Executor]:
        return self._lanes

    def prepare(self, *batch_sizes: int) -> None:
        self.prepared.extend(batch_sizes)

    def compute(self, images: np.ndarray) -> np.ndarray:
        self.computed.append(images.copy())
        sums: np.ndarray = images.sum(axis=(1, 2), dtype=np.float32)
        return sums


class MeanNetwork(nnx.Module):
    """A small network: the mean colour through a linear layer, at length 1."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.head = nnx.Linear(3, 5, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x: jax.Array = self.head(images.astype(jnp.float32).mean(axis=(1, 2)) / 255)
        return jnp.divide(x, jnp.linalg.norm(x, axis=-1, keepdims=True))


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    return list(rng.integers(0, 256, (count, INPUT.height_px, INPUT.width_px, 3), dtype=np.uint8))


def test_seven_pictures_ride_in_buckets_of_four_and_four() -> None:
    executor = Sums()
    Engine(executor, INPUT, answer_shape=(3,), buckets=(1, 2, 4)).lane(0)(pictures(7))
    assert [len(batch) for batch in executor.computed] == [4, 4]
    assert not executor.computed[1][3].any()


def test_one_picture_rides_alone() -> None:
    executor = Sums()
    Engine(executor, INPUT, answer_shape=(3,), buckets=(1, 2, 4)).lane(0)(pictures(1))
    assert [len(batch) for batch in executor.computed] == [1]


def test_warm_up_prepares_and_runs_every_bucket_of_every_lane_and_one_picture_alone() -> None:
    lanes = [Sums(), Sums()]
    executor = Sums(lanes=lanes)
    engine = Engine(executor, INPUT, answer_shape=(3,), buckets=(1, 2, 4))
    engine.warm_up()
    assert engine.lanes == 2
    for lane in lanes:
        assert lane.prepared == [1, 2, 4]
        assert [len(batch) for batch in lane.computed] == [1, 2, 4]
    assert executor.prepared == [1]
    assert [len(batch) for batch in executor.computed] == [1]


def test_a_lane_computes_what_it_is_given_and_a_lone_picture_has_the_whole_executor() -> None:
    lanes = [Sums(), Sums()]
    executor = Sums(lanes=lanes)
    engine = Engine(executor, INPUT, answer_shape=(3,), buckets=(1, 2))
    (one, *two) = pictures(3)
    np.testing.assert_array_equal(engine.infer_alone(one), one.sum(axis=(0, 1)))
    np.testing.assert_array_equal(engine.lane(1)(two), [other.sum(axis=(0, 1)) for other in two])
    assert [len(each.computed) for each in (executor, *lanes)] == [1, 0, 1]


@pytest.mark.parametrize(("buckets", "kept"), [((1, 2, 4, 8, 32), (1, 2, 4)), ((1, 3, 5), (1, 3)), ((8, 16), (8,))])
def test_a_core_of_the_host_gets_small_batches(buckets: tuple[int, ...], kept: tuple[int, ...]) -> None:
    on_host, on_device = (
        Engine(Sums(on_host=where), INPUT, answer_shape=(3,), buckets=buckets, most_on_host=4)
        for where in (True, False)
    )
    assert on_host.buckets == kept
    assert on_device.buckets == buckets
    assert Engine(Sums(on_host=True), INPUT, answer_shape=(3,), buckets=buckets).buckets == buckets


@given(st.integers(0, 30), st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True))
def test_vectors_come_in_the_order_of_the_pictures_whatever_the_buckets(count: int, buckets: list[int]) -> None:
    given_pictures = pictures(count)
    vectors = Engine(Sums(), INPUT, answer_shape=(3,), buckets=sorted(buckets)).lane(0)(given_pictures)
    assert vectors.shape == (count, 3)
    assert all(
        np.array_equal(vector, one.sum(axis=(0, 1))) for vector, one in zip(vectors, given_pictures, strict=True)
    )


@pytest.mark.parametrize("buckets", [(), (0, 1), (2, 1), (1, 1)])
def test_buckets_must_ascend(buckets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be ascending and at least 1"):
        Engine(Sums(), INPUT, answer_shape=(3,), buckets=buckets)


@pytest.fixture(scope="module")
def network() -> MeanNetwork:
    return MeanNetwork(nnx.Rngs(0))


def test_xla_gives_what_the_network_gives(network: MeanNetwork) -> None:
    engine = Engine(XlaExecutor(network, INPUT), INPUT, answer_shape=(5,), buckets=(1, 4))
    engine.warm_up()
    some = pictures(6)
    np.testing.assert_allclose(engine.lane(0)(some), network(jnp.stack(some)), atol=1e-6)


def test_nothing_compiles_after_warm_up(network: MeanNetwork) -> None:
    counter = CompilationCounter()
    engine = Engine(XlaExecutor(network, INPUT), INPUT, answer_shape=(5,), buckets=(1, 2, 4))
    engine.warm_up()
    assert counter.count >= 3
    counter.reset()
    for count in range(1, 20):
        engine.lane(0)(pictures(count))
    engine.infer_alone(pictures(1)[0])
    assert counter.count == 0


def test_the_counter_sees_a_compilation() -> None:
    counter = CompilationCounter()
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(7)).block_until_ready()
    assert counter.count > 0


def test_a_size_that_was_not_prepared_is_an_error_and_not_a_compilation(network: MeanNetwork) -> None:
    executor = XlaExecutor(network, INPUT)
    executor.prepare(1)
    with pytest.raises(KeyError):
        executor.compute(np.stack(pictures(2)))
