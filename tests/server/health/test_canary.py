"""The canary, on models whose answers a test can bend."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from twinsight_core.engine import Engine
from twinsight_core.errors import Unavailable
from twinsight_core.executors.base import Executor
from twinsight_core.images import Preprocessing
from twinsight_core.models.tasks import Task
from twinsight_core.packages import shipped_packages
from twinsight_server.calls.call import Call
from twinsight_server.health import canary as health
from twinsight_server.health.canary import Canary
from twinsight_server.inference.batcher import Batcher
from twinsight_server.inference.models import ServedModel
from twinsight_server.inference.turns import Answer
from twinsight_server.metrics import Metrics

INPUT = Preprocessing(height_px=1, width_px=1)
PIXEL = np.zeros((1, 1, 3), np.uint8)
FOUND = np.array([[0, 0, 1, 1, 0.8, 1], [0, 0, 0.5, 0.5, 0.8 - 1e-6, 2], [0, 0, 0, 0, 0, 0]], np.float32)


class Bent:
    """Gives the answer that it is told to, when `go` is set; remembers the sizes of its batches."""

    name = "bent"
    on_host = False
    is_single_threaded = False

    def __init__(self, answer: np.ndarray) -> None:
        self.answer = answer
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()
        self.sizes: list[int] = []

    def lanes(self) -> Sequence[Executor]:
        return [self]

    def prepare(self, *batch_sizes: int) -> None:
        del batch_sizes

    def compute(self, images: np.ndarray) -> np.ndarray:
        self.busy.set()
        assert self.go.wait(60)
        self.sizes.append(len(images))
        return np.stack([self.answer] * len(images))


class Bench:
    """A canary of one model."""

    def __init__(self, answer: np.ndarray, task: Task) -> None:
        self.executor = Bent(answer)
        self.metrics = Metrics()
        (base,) = (one for one in shipped_packages() if one.name == "base")
        package = replace(base, card=replace(base.card, task=task, preprocessing=INPUT, dimension=0, labels=("a", "b")))
        engine = Engine(self.executor, INPUT, answer_shape=answer.shape, buckets=(1, 4))
        self.batcher = Batcher("m", engine, self.metrics, queue_size=8, wait_s=0)
        self.batcher.start()
        self.model = ServedModel(package, engine, self.batcher)
        self.canary = Canary([self.model], ["twinsight.Service"], self.metrics)

    def hold(self) -> None:
        """Makes the worker compute a picture until `go`."""
        self.executor.go.clear()
        self.executor.busy.clear()
        self.batcher.submit(lambda: PIXEL, Call("load", None), Future())
        assert self.executor.busy.wait(30)

    def close(self) -> None:
        self.executor.go.set()
        self.batcher.close()
        self.canary.stop()
        self.canary.join()


@pytest.fixture
def detector() -> Iterator[Bench]:
    made = Bench(FOUND, "detection")
    made.canary.learn()
    yield made
    made.close()


@pytest.fixture
def classifier() -> Iterator[Bench]:
    made = Bench(np.array([0.25, 0.75], np.float32), "classification")
    made.canary.learn()
    yield made
    made.close()


def test_detections_of_nearly_equal_score_may_change_places(detector: Bench) -> None:
    detector.executor.answer = FOUND[[1, 0, 2]]
    assert detector.canary.check()


def test_a_detector_of_other_scores_is_not_healthy(detector: Bench) -> None:
    detector.executor.answer = FOUND * np.array([1, 1, 1, 1, 0.9, 1], np.float32)
    assert not detector.canary.check()
    detector.executor.answer = np.full_like(FOUND, np.nan)
    assert not detector.canary.check()


def test_probabilities_that_change_places_are_not_healthy(classifier: Bench) -> None:
    classifier.executor.answer = classifier.executor.answer[::-1].copy()
    assert not classifier.canary.check()


def test_a_model_that_hangs_is_told_at_once_and_for_as_long_as_no_lane_is_left(
    classifier: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_HUNG_S", 0.0)
    monkeypatch.setattr(health, "_HUNG_TIMES", 0)
    classifier.canary._tell(serving=True)
    classifier.hold()
    for _ in range(3):
        classifier.canary.watch()
    assert classifier.metrics.registry.get_sample_value("twinsight_healthy") == 0
    assert not classifier.canary.check()
    classifier.executor.go.set()  # it did not hang after all
    while classifier.batcher.is_broken:
        time.sleep(0.001)
    assert classifier.canary.check()


def test_a_long_batch_in_compute_is_load_and_not_sickness(classifier: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_TIMEOUT_S", 0.0)
    monkeypatch.setattr(classifier.batcher, "longest_turn_s", lambda: 60.0)
    asked, right = threading.Event(), classifier.batcher.submit_urgent

    def watched(image: np.ndarray, call: Call) -> object:
        future = right(image, call)
        asked.set()
        return future

    monkeypatch.setattr(classifier.batcher, "submit_urgent", watched)
    classifier.hold()
    with ThreadPoolExecutor(1) as pool:
        healthy = pool.submit(classifier.canary.check)
        assert asked.wait(30)
        classifier.executor.go.set()
        assert healthy.result(30)


def test_a_model_slow_from_the_start_is_given_the_time_of_its_largest_batch(
    classifier: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))  # 10 s from one look to the next
    with monkeypatch.context() as patch:
        patch.setattr(health, "time", SimpleNamespace(monotonic=lambda: float(next(clock)) + 1e9))
        classifier.canary.learn()
    assert classifier.canary._limit_s(classifier.canary._models[0]) >= 5 + 4 * 10


def test_a_turn_that_was_long_once_is_forgotten_by_and_by(classifier: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter([640.0] + [0.0] * 20)
    monkeypatch.setattr(classifier.batcher, "longest_turn_s", lambda: next(turns))
    limits = [classifier.canary._limit_s(classifier.canary._models[0]) for _ in range(15)]
    assert limits[:3] == [645, 325, 165]
    assert limits[-1] < 6


def test_a_worker_that_hangs_is_not_healthy_and_the_test_picture_is_dropped(
    classifier: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(classifier.executor.sizes)
    classifier.hold()
    with monkeypatch.context() as patch:
        patch.setattr(health, "_TIMEOUT_S", 0.05)
        assert not classifier.canary.check()
    classifier.executor.go.set()
    assert classifier.canary.check()
    # The load's, and the second test's.
    assert classifier.executor.sizes[before:] == [1, 1]
    assert classifier.metrics.registry.get_sample_value("twinsight_dropped_images_total", {"model": "m"}) == 1


def test_stopping_does_not_wait_for_the_test_under_way(
    classifier: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, right = threading.Event(), classifier.batcher.submit_urgent

    def watched(image: np.ndarray, call: Call) -> object:
        future = right(image, call)
        asked.set()
        return future

    monkeypatch.setattr(classifier.batcher, "submit_urgent", watched)
    monkeypatch.setattr(health, "_TIMEOUT_S", 60.0)
    classifier.hold()
    classifier.canary.start(0.01)
    assert asked.wait(30)
    classifier.canary.stop()  # the test's time limit would tell
    classifier.executor.go.set()
    classifier.batcher.close()
    classifier.canary.join()
    assert "the test inference failed" not in caplog.text


def test_one_sick_model_is_told_before_the_next_is_tested(classifier: Bench, detector: Bench) -> None:
    other = replace(detector.model, package=replace(detector.model.package, name="other"))
    both = Canary([classifier.model, other], [], classifier.metrics)
    both.learn()
    both._tell(serving=True)
    classifier.executor.answer = classifier.executor.answer[::-1].copy()
    detector.executor.go.clear()
    detector.executor.busy.clear()
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(both.check)
        assert detector.executor.busy.wait(30)
        assert classifier.metrics.registry.get_sample_value("twinsight_healthy") == 0
        detector.executor.go.set()
        assert not checked.result(30)


def test_a_model_that_hangs_while_the_server_drains_is_given_up(
    classifier: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_WATCH_S", 0.01)
    monkeypatch.setattr(health, "_HUNG_S", 0.0)
    monkeypatch.setattr(health, "_HUNG_TIMES", 0)
    classifier.executor.go.clear()
    classifier.executor.busy.clear()
    stuck: Future[Answer] = Future()
    classifier.canary.start(60)
    classifier.canary.stop()
    classifier.batcher.submit(lambda: PIXEL, Call("load", None), stuck)
    error = stuck.result(30)
    assert isinstance(error, Unavailable)
    assert error.reason == "MODEL_HUNG"


def test_a_test_that_fails_by_itself_is_not_the_last(classifier: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    checks, failed = threading.Semaphore(0), threading.Event()

    def failing() -> bool:
        checks.release()
        if not failed.is_set():
            failed.set()
            raise RuntimeError("can't start new thread")
        return True

    monkeypatch.setattr(classifier.canary, "check", failing)
    classifier.canary.start(0.01)
    assert all(checks.acquire(timeout=20) for _ in range(3))
