from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from twinsight_core.engine import Engine
from twinsight_core.executors.base import Executor
from twinsight_core.images import Preprocessing
from twinsight_server.calls.call import Call
from twinsight_server.inference import batcher as batcher_module
from twinsight_server.inference.batch_wait import TunedWait
from twinsight_server.inference.batcher import Batcher
from twinsight_server.inference.turns import Answer
from twinsight_server.metrics import Metrics


class Reds:
    """Computes a pixel's red; remembers the sizes of the batches."""

    name = "reds"
    is_single_threaded = False

    def __init__(self, *, on_host: bool) -> None:
        self.on_host = on_host
        self.sizes: list[int] = []

    def lanes(self) -> Sequence[Executor]:
        return [self]

    def prepare(self, *batch_sizes: int) -> None:
        del batch_sizes

    def compute(self, images: np.ndarray) -> np.ndarray:
        self.sizes.append(len(images))
        return images[:, 0, 0, :1].astype(np.float32)


class NotedWait(TunedWait):
    """Always waits for half of the goal; notes what it is told, and sets `asked` when it is asked how long to wait."""

    def __init__(self, p99_goal_s: float, *, lanes: int) -> None:
        super().__init__(p99_goal_s, lanes=lanes)
        self.asked = threading.Event()
        self.joined: list[int] = []
        self.batches: list[tuple[float, float, list[float]]] = []

    @property
    def seconds(self) -> float:
        self.asked.set()
        return self.longest_s

    def waited(self, joined: int) -> None:
        self.joined.append(joined)

    def served(self, begun: float, ended: float, since: Iterable[float]) -> None:
        self.batches.append((begun, ended, list(since)))


def made(executor: Reds, metrics: Metrics) -> Batcher:
    """Returns a batcher that waits for up to 30 s."""
    engine = Engine(executor, Preprocessing(height_px=1, width_px=1), answer_shape=(1,), buckets=(1, 2, 4))
    batcher = Batcher("m", engine, metrics, queue_size=8, wait_s=None, p99_goal_s=60)
    batcher.start()
    return batcher


def red(level: int) -> Callable[[], np.ndarray]:
    return lambda: np.array([[[level, 0, 0]]], np.uint8)


def shown_wait_s(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("twinsight_batch_wait_seconds", {"model": "m"})


def test_a_wait_that_follows_the_load_is_told_what_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[NotedWait] = []

    def noted(p99_goal_s: float, *, lanes: int) -> NotedWait:
        waits.append(NotedWait(p99_goal_s, lanes=lanes))
        return waits[-1]

    monkeypatch.setattr(batcher_module, "TunedWait", noted)
    executor, metrics = Reds(on_host=False), Metrics()
    batcher = made(executor, metrics)
    (wait,) = waits
    first: Future[Answer] = Future()
    second: Future[Answer] = Future()
    batcher.announce()
    batcher.announce()
    batcher.submit(red(1), Call("test", None), first, announced=True)
    assert wait.asked.wait(30)  # by the lane, which keeps the lock until it waits
    batcher.submit(red(2), Call("test", None), second, announced=True)
    assert [one.result(10) for one in (first, second)] == [1, 2]
    batcher.close()
    assert executor.sizes == [2]
    assert wait.joined == [1]
    ((begun, ended, since),) = wait.batches
    assert since[0] <= since[1] <= begun <= ended


def test_the_wait_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher_module, "TunedWait", NotedWait)
    metrics = Metrics()
    batcher = made(Reds(on_host=False), metrics)
    assert shown_wait_s(metrics) == 30
    batcher.close()


def test_a_lane_of_the_host_waits_for_nobody() -> None:
    metrics = Metrics()
    batcher = made(Reds(on_host=True), metrics)
    assert shown_wait_s(metrics) == 0
    batcher.announce()  # of a picture that does not come
    future: Future[Answer] = Future()
    batcher.submit(red(3), Call("test", None), future)
    assert future.result(10) == 3
    batcher.close()
