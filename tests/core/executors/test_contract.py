"""What every executor keeps to, over all of them and networks of every task that they serve."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from twinsight_core.executors.base import Executor
from twinsight_core.executors.openvino import OpenVinoExecutor, supported_precisions
from twinsight_core.executors.xla import XlaExecutor
from twinsight_core.exporting.agreement import LEAST_COSINE, MOST_DIFFERENCE, trial_pictures
from twinsight_core.exporting.onnx import to_onnx
from twinsight_core.models.precision import Precision
from twinsight_core.packages import ModelPackage

Make = Callable[[ModelPackage], Executor]


def has_openvino() -> bool:
    return all(importlib.util.find_spec(name) for name in ("openvino", "jax2onnx", "onnxruntime"))


def makers() -> dict[str, Make]:
    made: dict[str, Make] = {
        f"xla-{precision}": lambda package, precision=precision: XlaExecutor(  # type: ignore[misc]
            package.build(), package.card.preprocessing, precision=precision
        )
        for precision in ("f32", "bf16")
    }
    for precision in supported_precisions() if has_openvino() else ():
        made[f"openvino-{precision}"] = lambda package, precision=precision: OpenVinoExecutor(  # type: ignore[misc]
            to_onnx(package.build(), package.card.preprocessing, batch=None),
            package.card.preprocessing,
            precision=precision,
        )
    return made


MAKERS = makers()


@pytest.fixture(scope="module")
def wanted(served: ModelPackage) -> np.ndarray:
    return np.asarray(served.build()(trial_pictures(served.card.preprocessing)))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=MAKERS)
def executor(request: pytest.FixtureRequest, served: ModelPackage) -> Executor:
    made = MAKERS[request.param](served)
    made.prepare(1, 2, 6)
    return made


def test_answers_are_the_networks_within_the_tolerance(
    executor: Executor, served: ModelPackage, wanted: np.ndarray
) -> None:
    answers = executor.compute(trial_pictures(served.card.preprocessing))
    assert answers.dtype == np.float32
    assert answers.shape == wanted.shape
    precision: Precision = "bf16" if executor.name.endswith("bf16") else "f32"
    if served.card.task == "embedding":
        np.testing.assert_allclose(np.linalg.norm(answers, axis=1), 1.0, atol=1e-5)
        assert np.sum(answers * wanted, axis=1).min() >= LEAST_COSINE[precision]
    else:
        assert np.abs(answers - wanted).max() <= MOST_DIFFERENCE[precision]


def test_a_picture_has_the_same_answer_in_every_batch(executor: Executor, served: ModelPackage) -> None:
    pictures = trial_pictures(served.card.preprocessing)
    together = executor.compute(pictures)
    np.testing.assert_allclose(np.concatenate([executor.compute(one[None]) for one in pictures]), together, atol=2e-6)
    pairs = [executor.compute(pictures[start : start + 2]) for start in (0, 2, 4)]
    np.testing.assert_allclose(np.concatenate(pairs), together, atol=2e-6)


def test_an_answer_stays_what_it_was_when_the_next_is_computed(executor: Executor, served: ModelPackage) -> None:
    pictures = trial_pictures(served.card.preprocessing)
    first = executor.compute(pictures[:1])
    before = first.copy()
    executor.compute(pictures[1:2])
    np.testing.assert_array_equal(first, before)


def test_the_pictures_are_left_as_they_were(executor: Executor, served: ModelPackage) -> None:
    pictures = trial_pictures(served.card.preprocessing)
    executor.compute(pictures)
    np.testing.assert_array_equal(pictures, trial_pictures(served.card.preprocessing))


def test_a_size_that_was_not_prepared_is_an_error_and_not_a_compilation(
    executor: Executor, served: ModelPackage
) -> None:
    with pytest.raises(KeyError):
        executor.compute(trial_pictures(served.card.preprocessing)[:3])


@pytest.mark.parametrize("kind", MAKERS)
def test_lanes_answer_at_the_same_time_what_the_executor_answers_alone(kind: str, embedding: ModelPackage) -> None:
    executor = MAKERS[kind](embedding)
    executor.prepare(1)
    pictures = trial_pictures(embedding.card.preprocessing)
    alone = np.concatenate([executor.compute(one[None]) for one in pictures])
    lanes = executor.lanes()
    assert {lane.name for lane in lanes} == {executor.name}
    for lane in lanes:
        lane.prepare(1, 2)

    def ask(number: int) -> np.ndarray:
        lane = lanes[number]
        ones = [lane.compute(one[None]) for _ in range(10) for one in pictures]
        return np.concatenate([*ones, lane.compute(pictures[:2])])

    with ThreadPoolExecutor(len(lanes)) as pool:
        for answers in pool.map(ask, range(len(lanes))):
            # OpenVINO may deal out a product to two cores in another way than to one.
            np.testing.assert_allclose(answers, np.concatenate([*[alone] * 10, alone[:2]]), atol=2e-6)
