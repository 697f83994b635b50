from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from twinsight_core import engine
from twinsight_core.engine import Engine
from twinsight_core.executors.base import Executor
from twinsight_core.host.cores import CAN_CHOOSE, usable_cores
from twinsight_core.images import Preprocessing
from twinsight_server.calls.call import Call
from twinsight_server.inference.batcher import Batcher
from twinsight_server.inference.turns import Answer
from twinsight_server.metrics import Metrics


class Placed:
    """Two lanes, which compute at the same time; remembers on which cores."""

    name = "placed"
    on_host = True

    def __init__(self, *, is_single_threaded: bool) -> None:
        self.is_single_threaded = is_single_threaded
        self.cores: list[set[int]] = []
        self._together = threading.Barrier(2)

    def lanes(self) -> Sequence[Executor]:
        return [self, self]

    def prepare(self, *batch_sizes: int) -> None:
        del batch_sizes

    def compute(self, images: np.ndarray) -> np.ndarray:
        self._together.wait(30)
        self.cores.append(os.sched_getaffinity(0))
        self._together.wait(30)
        return images[:, 0, 0, :1].astype(np.float32)


def cores_of_two_lanes(executor: Placed) -> list[set[int]]:
    runner = Engine(executor, Preprocessing(height_px=1, width_px=1), answer_shape=(1,), buckets=(1,))
    batcher = Batcher("m", runner, Metrics(), queue_size=2, wait_s=0)
    futures: list[Future[Answer]] = [Future(), Future()]
    for future in futures:
        batcher.submit(lambda: np.zeros((1, 1, 3), np.uint8), Call("test", None), future)
    batcher.start()
    for future in futures:
        future.result(30)
    batcher.close()
    return executor.cores


@pytest.mark.skipif(len(usable_cores()) < 2 or not CAN_CHOOSE, reason="one core, or threads are not placed")
def test_lanes_that_compute_in_their_own_threads_do_so_on_different_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "usable_cores", lambda: frozenset(range(2)))
    one, other = cores_of_two_lanes(Placed(is_single_threaded=True))
    assert (len(one), len(other)) == (1, 1)
    assert one != other


@pytest.mark.skipif(not CAN_CHOOSE, reason="threads are not placed")
def test_fewer_lanes_than_cores_may_run_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "usable_cores", lambda: frozenset(range(3)))
    assert cores_of_two_lanes(Placed(is_single_threaded=True)) == [usable_cores(), usable_cores()]


@pytest.mark.skipif(not CAN_CHOOSE, reason="threads are not placed")
def test_lanes_with_threads_that_others_start_may_run_anywhere() -> None:
    assert cores_of_two_lanes(Placed(is_single_threaded=False)) == [usable_cores(), usable_cores()]
