"""Turns that hang in the model, and failures outside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from twinsight_core.engine import Engine
from twinsight_core.errors import Unavailable
from twinsight_core.executors.base import Executor
from twinsight_core.host.own_cores import OwnCore
from twinsight_core.images import Preprocessing
from twinsight_server.calls.call import Call
from twinsight_server.inference import batcher as batcher_module
from twinsight_server.inference.batcher import Batcher
from twinsight_server.inference.turns import Answer, Infer, Turn
from twinsight_server.metrics import Metrics

INPUT = Preprocessing(height_px=1, width_px=1)
POISON = 13


class HangingExecutor:
    """Computes the pixel's red; hangs, until `go`, on the poisonous one. Counts how often its lanes were made."""

    name = "hanging"
    on_host = False
    is_single_threaded = False

    def __init__(self) -> None:
        self.go = threading.Event()
        self.busy = threading.Event()
        self.made = 0

    def prepare(self, *batch_sizes: int) -> None:
        del batch_sizes

    def lanes(self) -> Sequence[Executor]:
        self.made += 1
        return [self]

    def compute(self, images: np.ndarray) -> np.ndarray:
        if (images[:, 0, 0, 0] == POISON).any():
            self.busy.set()
            assert self.go.wait(60)
        return images[:, 0, 0, :1].astype(np.float32)


def pixel(red: int) -> np.ndarray:
    return np.array([[[red, 0, 0]]], np.uint8)


def submit(batcher: Batcher, red: int) -> Future[Answer]:
    future: Future[Answer] = Future()
    batcher.submit(lambda: pixel(red), Call("test", None), future)
    return future


def red_of(future: Future[Answer]) -> float:
    answer = future.result(10)
    assert isinstance(answer, np.ndarray)
    return float(answer[0])


@pytest.fixture
def hanging() -> Iterator[tuple[Batcher, HangingExecutor]]:
    executor = HangingExecutor()
    engine = Engine(executor, INPUT, answer_shape=(1,), buckets=(1, 2, 4))
    made = Batcher("m", engine, Metrics(), queue_size=8, wait_s=0)
    made.start()
    yield made, executor
    executor.go.set()
    made.close()


def test_a_turn_that_hangs_is_given_up_and_its_lane_made_anew(hanging: tuple[Batcher, HangingExecutor]) -> None:
    batcher, executor = hanging
    stuck = submit(batcher, POISON)
    assert executor.busy.wait(30)
    behind = submit(batcher, 2)
    assert watched(batcher, 60) == 0
    assert not stuck.done()
    assert watched(batcher, 0) == 1
    error = stuck.result(10)
    assert isinstance(error, Unavailable)
    assert error.reason == "MODEL_HUNG"
    assert red_of(behind) == 2
    assert executor.made == 2
    assert batcher.is_broken  # it has one lane
    executor.go.set()  # what the old thread still brings is ignored, and it ends
    until(lambda: not batcher.is_broken)
    assert red_of(submit(batcher, 3)) == 3


def test_all_that_hang_are_answered_before_a_lane_is_made_anew_and_that_is_tried_again(
    hanging: tuple[Batcher, HangingExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinsight_server.inference.lanes._RENEW_AGAIN_S", 0.0)
    batcher, executor = hanging
    engine, renewed, may = batcher._engine, list[int](), threading.Event()
    renew = engine.renew

    def fails_once(lane: int) -> None:
        assert may.wait(60)
        renewed.append(lane)
        if len(renewed) == 1:
            raise RuntimeError("the device is sick")
        renew(lane)

    monkeypatch.setattr(engine, "renew", fails_once)
    stuck = submit(batcher, POISON)
    assert executor.busy.wait(30)
    assert watched(batcher, 0) == 1
    assert isinstance(stuck.result(10), Unavailable)
    executor.go.set()
    until(lambda: batcher._hung == 0)
    assert batcher.is_broken, "its one lane is not there yet"
    may.set()
    until(lambda: batcher.give_up_hung(60) == 0 and not batcher.is_broken)
    assert red_of(submit(batcher, 5)) == 5
    assert renewed == [0, 0]


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_lane_that_gets_no_thread_gets_one_when_there_are_some_again(
    error: Exception, hanging: tuple[Batcher, HangingExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinsight_server.inference.lanes._RENEW_AGAIN_S", 0.0)
    batcher, executor = hanging

    def none_left(_: threading.Thread) -> None:
        raise error

    stuck = submit(batcher, POISON)
    assert executor.busy.wait(30)
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", none_left)
        assert watched(batcher, 0) == 1
        assert isinstance(stuck.result(10), Unavailable)
        executor.go.set()
        until(lambda: batcher._hung == 0)
        assert watched(batcher, 60) == 0
        assert batcher.is_broken
    assert watched(batcher, 60) == 0
    assert red_of(submit(batcher, 5)) == 5
    assert not batcher.is_broken


@pytest.mark.parametrize("error", [MemoryError(), SystemExit()])
def test_a_lane_whose_thread_ends_by_an_error_is_taken_over_at_once(
    error: BaseException, hanging: tuple[Batcher, HangingExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, executor = hanging
    served = batcher._serve

    def fails_once(turn: Turn, infer: Infer, core: OwnCore) -> bool:
        monkeypatch.setattr(batcher, "_serve", served)
        served(turn, infer, core)
        raise error

    monkeypatch.setattr("twinsight_server.inference.lanes._RENEW_AGAIN_S", 600.0)
    monkeypatch.setattr(batcher, "_serve", fails_once)
    assert red_of(submit(batcher, 4)) == 4
    until(lambda: batcher.is_broken)
    waiting = submit(batcher, 5)
    assert batcher.give_up_hung(60) == 0
    assert red_of(waiting) == 5
    assert executor.made == 2
    assert not batcher.is_broken


def test_a_picture_without_memory_to_load_it_fails_alone(hanging: tuple[Batcher, HangingExecutor]) -> None:
    def no_memory() -> np.ndarray:
        raise MemoryError

    batcher, executor = hanging
    first, bad = submit(batcher, POISON), Future[Answer]()
    assert executor.busy.wait(30)
    batcher.submit(no_memory, Call("test", None), bad)
    good = submit(batcher, 5)  # in one batch with it
    executor.go.set()
    with pytest.raises(MemoryError):
        bad.result(10)
    assert (red_of(first), red_of(good)) == (POISON, 5)


@pytest.mark.parametrize(("owner", "name"), [(batcher_module, "is_wanted"), (OwnCore, "take")])
def test_pictures_are_answered_whatever_fails_between_them(
    owner: object, name: str, hanging: tuple[Batcher, HangingExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> bool:
        monkeypatch.undo()
        raise MemoryError

    batcher, _ = hanging
    monkeypatch.setattr(owner, name, no_memory)
    with pytest.raises(MemoryError):
        submit(batcher, 5).result(10)
    assert red_of(submit(batcher, 6)) == 6


def test_a_turn_that_stood_still_with_the_whole_process_is_not_given_up(
    hanging: tuple[Batcher, HangingExecutor],
) -> None:
    batcher, executor = hanging
    stuck = submit(batcher, POISON)
    assert executor.busy.wait(30)
    assert batcher.give_up_hung(0) == 0  # however long it was, it is seen for the first time
    executor.go.set()
    assert red_of(stuck) == POISON


def test_a_log_that_takes_no_line_is_no_model_that_hangs(
    hanging: tuple[Batcher, HangingExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, executor = hanging
    logging, go = threading.Event(), threading.Event()

    def fails(_: np.ndarray) -> np.ndarray:
        raise RuntimeError

    def stands_still(*_: object, **__: object) -> None:
        logging.set()
        assert go.wait(60)

    monkeypatch.setattr(executor, "compute", fails)
    monkeypatch.setattr(batcher_module.log, "exception", stands_still)
    failed = submit(batcher, 1)
    assert logging.wait(30)
    assert watched(batcher, 0) == 0
    go.set()
    with pytest.raises(RuntimeError):
        failed.result(30)


def watched(batcher: Batcher, limit_s: float) -> int:
    """Looks as often as it takes to be sure; returns how many turns were given up."""
    return sum(batcher.give_up_hung(limit_s) for _ in range(3))


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.001)


def test_a_caller_whose_lone_picture_hangs_is_cut_off_and_nobody_follows_it(
    hanging: tuple[Batcher, HangingExecutor],
) -> None:
    batcher, executor = hanging
    future: Future[Answer] = Future()
    call, ended = Call("test", None), list[str]()
    call.cut_off = lambda: ended.append("caller")
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(batcher.infer_alone, lambda: pixel(POISON), call, future)
        assert executor.busy.wait(30)
        assert watched(batcher, 0) == 1
        assert isinstance(future.result(10), Unavailable)
        assert ended == ["caller"], "its thread can't answer it"
        assert batcher.is_idle
        assert not batcher.infer_alone(lambda: pixel(1), Call("test", None), Future())
        assert red_of(submit(batcher, 4)) == 4
        executor.go.set()
        assert stuck.result(30)
        until(lambda: batcher.infer_alone(lambda: pixel(1), Call("test", None), Future()))


def test_closing_does_not_wait_for_ever_for_a_turn_that_hangs(hanging: tuple[Batcher, HangingExecutor]) -> None:
    batcher, executor = hanging
    submit(batcher, POISON)
    assert executor.busy.wait(30)
    batcher.close(0.1)
