from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from twinsight_core.engine import Engine
from twinsight_core.errors import Cancelled, DeadlineExceeded, Overloaded, Unavailable
from twinsight_core.images import Preprocessing
from twinsight_server.batcher import Batcher
from twinsight_server.calls import Call
from twinsight_server.metrics import Metrics

INPUT = Preprocessing(height_px=1, width_px=1)
POISON = 13


class GatedExecutor:
    """Computes the pixel's red; waits for `go` where it is held, and fails on the poisonous pixel."""

    name = "gated"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()
        self.sizes: list[int] = []

    def prepare(self, batch_size: int) -> None:
        del batch_size

    def compute(self, images: np.ndarray) -> np.ndarray:
        self.busy.set()
        assert self.go.wait(30)
        self.sizes.append(len(images))
        if (images[:, 0, 0, 0] == POISON).any():
            raise ValueError("poisoned")
        return images[:, 0, 0, :1].astype(np.float32)


@pytest.fixture
def executor() -> GatedExecutor:
    return GatedExecutor()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def batcher(executor: GatedExecutor, metrics: Metrics) -> Iterator[Batcher]:
    engine = Engine(executor, INPUT, answer_shape=(1,), buckets=(1, 2, 4))
    made = Batcher("m", engine, metrics, queue_size=8, wait_s=30)
    yield made
    executor.go.set()
    made.close()


def pixel(red: int) -> np.ndarray:
    return np.array([[[red, 0, 0]]], np.uint8)


def call() -> Call:
    return Call("test", None)


def submit(batcher: Batcher, red: int, one: Call | None = None) -> Future[np.ndarray]:
    batcher.announce()
    return batcher.submit(pixel(red), one or call())


def hold(batcher: Batcher, executor: GatedExecutor) -> None:
    """Makes the worker compute one picture until `go`, so that what comes next waits."""
    executor.go.clear()
    batcher.submit_urgent(pixel(0), call())
    assert executor.busy.wait(30)


def test_a_lone_picture_does_not_wait_for_company(batcher: Batcher) -> None:
    # With a wait of 30 s the test's time limit would tell.
    assert submit(batcher, 7).result(10) == 7


def test_pictures_that_wait_share_a_batch(batcher: Batcher, executor: GatedExecutor) -> None:
    hold(batcher, executor)
    futures = [submit(batcher, n) for n in range(4)]
    executor.go.set()
    assert [float(one.result(10)[0]) for one in futures] == [0, 1, 2, 3]
    assert executor.sizes == [1, 4]


def test_the_worker_waits_while_others_are_being_decoded(batcher: Batcher, executor: GatedExecutor) -> None:
    batcher.announce()
    first = submit(batcher, 1)
    assert not first.done()
    second = batcher.submit(pixel(2), call())
    assert [float(one.result(10)[0]) for one in (first, second)] == [1, 2]
    assert executor.sizes == [2]


def test_a_picture_that_fails_to_decode_lets_the_others_go(batcher: Batcher) -> None:
    batcher.announce()
    first = submit(batcher, 1)
    batcher.give_up()
    assert first.result(10) == 1


def test_without_room_a_call_is_refused_and_told_when_to_come_again(batcher: Batcher) -> None:
    with batcher.room(8, call()):
        with (
            pytest.raises(Overloaded, match="holds 8 of at most 8 pictures; 1 more don't fit") as caught,
            batcher.room(1, call()),
        ):
            pass
        assert caught.value.retry_after_s >= 0.05
    with batcher.room(8, call()):
        pass


def test_room_is_given_back_when_a_call_fails(batcher: Batcher) -> None:
    with pytest.raises(KeyError), batcher.room(8, call()):
        raise KeyError
    with batcher.room(8, call()):
        pass


def test_work_of_a_caller_that_is_gone_never_reaches_the_device(
    batcher: Batcher, executor: GatedExecutor, metrics: Metrics
) -> None:
    hold(batcher, executor)
    gone, late, here = call(), Call("late", deadline=0.0), call()
    futures = [submit(batcher, n, one) for n, one in enumerate((gone, late, here))]
    gone.cancel()
    executor.go.set()
    with pytest.raises(Cancelled):
        futures[0].result(10)
    with pytest.raises(DeadlineExceeded):
        futures[1].result(10)
    assert futures[2].result(10) == 2
    assert executor.sizes == [1, 1]
    assert metrics.registry.get_sample_value("twinsight_dropped_images_total", {"model": "m"}) == 2


def test_a_picture_that_poisons_its_batch_fails_alone(batcher: Batcher, executor: GatedExecutor) -> None:
    hold(batcher, executor)
    futures = [submit(batcher, n) for n in (1, POISON, 3)]
    executor.go.set()
    assert [float(futures[n].result(10)[0]) for n in (0, 2)] == [1, 3]
    with pytest.raises(ValueError, match="poisoned"):
        futures[1].result(10)


def test_the_worker_outlives_poison(batcher: Batcher) -> None:
    with pytest.raises(ValueError, match="poisoned"):
        submit(batcher, POISON).result(10)
    assert submit(batcher, 5).result(10) == 5


def test_an_urgent_picture_needs_no_room(batcher: Batcher, executor: GatedExecutor) -> None:
    hold(batcher, executor)
    with batcher.room(8, call()):
        waiting = submit(batcher, 1)
        urgent = batcher.submit_urgent(pixel(9), call())
        executor.go.set()
        assert urgent.result(10) == 9
        assert waiting.result(10) == 1


def test_an_urgent_picture_goes_first_and_alone(batcher: Batcher, executor: GatedExecutor) -> None:
    hold(batcher, executor)
    waiting = [submit(batcher, n) for n in (1, 2)]
    urgent = batcher.submit_urgent(pixel(9), call())
    executor.go.set()
    assert urgent.result(10) == 9
    assert [float(one.result(10)[0]) for one in waiting] == [1, 2]
    assert executor.sizes == [1, 1, 2]


def test_an_urgent_picture_does_not_wait_for_a_batch_to_fill(batcher: Batcher) -> None:
    batcher.announce()  # of a picture for which the worker would wait 30 s
    waiting = submit(batcher, 1)
    assert batcher.submit_urgent(pixel(9), call()).result(10) == 9
    assert not waiting.done()
    batcher.give_up()
    assert waiting.result(10) == 1


def test_an_urgent_picture_that_nobody_waits_for_is_dropped(batcher: Batcher, executor: GatedExecutor) -> None:
    hold(batcher, executor)
    urgent = batcher.submit_urgent(pixel(9), Call("late", deadline=0.0))
    executor.go.set()
    with pytest.raises(DeadlineExceeded):
        urgent.result(10)
    assert executor.sizes == [1]


def test_the_longest_turn_is_told_once(batcher: Batcher) -> None:
    submit(batcher, 1).result(10)
    submit(batcher, 2).result(10)  # the turn of the first is over
    assert batcher.longest_turn_s() > 0
    submit(batcher, 3).result(10)
    batcher.close()
    assert 0 < batcher.longest_turn_s() < 30
    assert batcher.longest_turn_s() == 0


class Patient:
    """A call that waits for room until `enough`; `asked` once it does."""

    def __init__(self, deadline: float | None = None) -> None:
        self.asked = threading.Event()
        self.enough = False
        self.call = Call("patient", deadline, check_waiting=self._check)

    def _check(self) -> None:
        self.asked.set()
        if self.enough:
            raise Unavailable("Enough.", reason="DRAINING")

    def take(self, batcher: Batcher, count: int) -> str:
        with batcher.room(count, self.call):
            return "taken"


def test_a_call_that_waits_gets_its_room_when_there_is_some(batcher: Batcher) -> None:
    patient = Patient()
    with ThreadPoolExecutor(1) as pool:
        with batcher.room(8, call()):
            taken = pool.submit(patient.take, batcher, 3)
            assert patient.asked.wait(30)
            assert not taken.done()
        assert taken.result(30) == "taken"
    with batcher.room(8, call()):
        pass


def test_a_call_waits_no_longer_than_its_caller_or_the_server(batcher: Batcher) -> None:
    gone, drained, late = Patient(), Patient(), Patient(deadline=time.monotonic() + 0.05)
    with ThreadPoolExecutor(3) as pool, batcher.room(8, call()):
        waiting = [pool.submit(one.take, batcher, 1) for one in (gone, drained, late)]
        assert gone.asked.wait(30)
        assert drained.asked.wait(30)
        gone.call.cancel()
        drained.enough = True
        for one, error in zip(waiting, (Cancelled, Unavailable, DeadlineExceeded), strict=True):
            with pytest.raises(error):
                one.result(30)


def test_closing_answers_what_waits_and_refuses_the_rest(executor: GatedExecutor, metrics: Metrics) -> None:
    batcher = Batcher("m", Engine(executor, INPUT, answer_shape=(1,), buckets=(1,)), metrics, queue_size=8, wait_s=0)
    hold(batcher, executor)
    futures = [submit(batcher, n) for n in (1, 2)]
    batcher.announce()  # of a picture that never comes: closing does not wait for it
    executor.go.set()
    batcher.close()
    assert [float(one.result(0)[0]) for one in futures] == [1, 2]
    with pytest.raises(Unavailable), batcher.room(1, call()):
        pass
    with pytest.raises(Unavailable):
        submit(batcher, 3).result(0)


def test_many_threads_get_their_own_answers(batcher: Batcher) -> None:
    def ask(red: int) -> bool:
        return bool(submit(batcher, red).result(30) == red)

    reds = [n % 250 for n in range(400) if n % 250 != POISON]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, reds))


def test_stage_times_reach_the_call(batcher: Batcher) -> None:
    mine = call()
    submit(batcher, 1, mine).result(10)
    assert mine.stages().keys() == {"queue", "compute", "total"}
