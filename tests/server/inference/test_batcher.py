from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from twinsight_core.engine import Engine
from twinsight_core.errors import Cancelled, DeadlineExceeded, Overloaded, Unavailable
from twinsight_core.executors.base import Executor
from twinsight_core.images import Preprocessing
from twinsight_server.calls.call import Call
from twinsight_server.inference.batcher import Batcher
from twinsight_server.inference.turns import Answer
from twinsight_server.metrics import Metrics

INPUT = Preprocessing(height_px=1, width_px=1)
POISON = 13


class GatedExecutor:
    """Computes the pixel's red; waits for `go` where it is held, and fails on the poisonous pixel."""

    name = "gated"
    is_single_threaded = False

    def __init__(self, *, on_host: bool = False, lanes: int = 1) -> None:
        self.on_host = on_host
        self.lane_count = lanes
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()
        self.sizes: list[int] = []

    def lanes(self) -> Sequence[Executor]:
        return [self] * self.lane_count

    def prepare(self, *batch_sizes: int) -> None:
        del batch_sizes

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
    made.start()
    yield made
    executor.go.set()
    made.close()


def pixel(red: int) -> np.ndarray:
    return np.array([[[red, 0, 0]]], np.uint8)


def call() -> Call:
    return Call("test", None)


def submit(batcher: Batcher, red: int, one: Call | None = None) -> Future[Answer]:
    batcher.announce()
    return arrive(batcher, red, one)


def arrive(batcher: Batcher, red: int, one: Call | None = None) -> Future[Answer]:
    """Queues a picture that was announced."""
    future: Future[Answer] = Future()
    batcher.submit(lambda: pixel(red), one or call(), future, announced=True)
    return future


def red_of(future: Future[Answer]) -> float:
    answer = future.result(10)
    assert isinstance(answer, np.ndarray)
    return float(answer[0])


def hold(batcher: Batcher, executor: GatedExecutor) -> None:
    """Makes the worker compute one picture until `go`, so that what comes next waits."""
    executor.go.clear()
    executor.busy.clear()
    batcher.submit_urgent(pixel(0), call())
    assert executor.busy.wait(30)


def test_a_lone_picture_does_not_wait_for_company(batcher: Batcher) -> None:
    # With a wait of 30 s the test's time limit would tell.
    assert submit(batcher, 7).result(10) == 7


def test_an_idle_lane_keeps_nothing_of_its_last_batch(batcher: Batcher) -> None:
    image, caller = pixel(7), call()
    left: list[weakref.ref[object]] = [weakref.ref(image), weakref.ref(caller)]
    assert red_of(batcher.submit_urgent(image, caller)) == 7
    del image, caller
    ends = time.monotonic() + 30
    while any(one() is not None for one in left) and time.monotonic() < ends:
        time.sleep(0.01)
    assert [one() for one in left] == [None, None]


def test_pictures_that_wait_share_a_batch(batcher: Batcher, executor: GatedExecutor) -> None:
    hold(batcher, executor)
    futures = [submit(batcher, n) for n in range(4)]
    executor.go.set()
    assert [red_of(one) for one in futures] == [0, 1, 2, 3]
    assert executor.sizes == [1, 4]


def test_the_worker_waits_while_others_are_being_decoded(batcher: Batcher, executor: GatedExecutor) -> None:
    batcher.announce()
    first = submit(batcher, 1)
    assert not first.done()
    second = arrive(batcher, 2)
    assert [red_of(one) for one in (first, second)] == [1, 2]
    assert executor.sizes == [2]


def test_a_picture_that_fails_to_decode_lets_the_others_go(batcher: Batcher) -> None:
    batcher.announce()
    first = submit(batcher, 1)
    batcher.give_up()
    assert first.result(10) == 1


def test_without_room_a_call_is_refused_and_told_when_to_come_again(batcher: Batcher) -> None:
    with batcher.room(8, call()):
        with (
            pytest.raises(
                Overloaded, match=r"it holds 8 images \(limit 8\), and 1 more would not fit; retry"
            ) as caught,
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
    assert [red_of(futures[n]) for n in (0, 2)] == [1, 3]
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


def test_an_urgent_picture_goes_first_and_alone_and_counts_in_no_batch(
    batcher: Batcher, executor: GatedExecutor, metrics: Metrics
) -> None:
    hold(batcher, executor)
    waiting = [submit(batcher, n) for n in (1, 2)]
    urgent = batcher.submit_urgent(pixel(9), call())
    executor.go.set()
    assert urgent.result(10) == 9
    assert [red_of(one) for one in waiting] == [1, 2]
    assert executor.sizes == [1, 1, 2]
    assert metrics.registry.get_sample_value("twinsight_batch_size_sum", {"model": "m"}) == 2


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


def test_lanes_compute_at_the_same_time(metrics: Metrics) -> None:
    executor = GatedExecutor(lanes=2)
    together = threading.Barrier(3)

    def compute(images: np.ndarray) -> np.ndarray:
        together.wait(30)
        return images[:, 0, 0, :1].astype(np.float32)

    executor.compute = compute  # type: ignore[method-assign]
    batcher = Batcher("m", Engine(executor, INPUT, answer_shape=(1,), buckets=(1,)), metrics, queue_size=8, wait_s=0)
    batcher.start()
    futures = [submit(batcher, n) for n in (1, 2)]
    together.wait(30)
    assert [red_of(one) for one in futures] == [1, 2]
    batcher.close()


def test_a_lane_of_the_host_takes_no_more_than_its_share(metrics: Metrics) -> None:
    executor = GatedExecutor(on_host=True, lanes=2)
    batcher = Batcher(
        "m", Engine(executor, INPUT, answer_shape=(1,), buckets=(1, 2, 4)), metrics, queue_size=8, wait_s=0
    )
    futures = [submit(batcher, n) for n in range(7)]
    batcher.start()
    assert [red_of(one) for one in futures] == list(range(7))
    batcher.close()
    # Seven by two lanes are four; three by the one that is free, or by two, are no more than two at a time.
    assert max(executor.sizes) == 4
    assert sum(executor.sizes) == 7
    assert 3 not in executor.sizes


def test_what_is_due_first_goes_first(
    batcher: Batcher, executor: GatedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinsight_server.inference.turns._PATIENCE_S", 60.0)
    monkeypatch.setattr("twinsight_server.inference.turns._STREAM_PATIENCE_S", 600.0)
    hold(batcher, executor)
    stream = Call("stream", None, check_waiting=lambda: None)
    soon = Call("soon", deadline=time.monotonic() + 50.0)
    reds: list[int] = []
    for red, one in ((1, stream), (2, call()), (3, soon), (4, stream), (5, call())):
        batcher.announce()
        batcher.submit(noted(red, reds), one, Future(), announced=True)
    executor.go.set()
    batcher.close()
    assert reds == [3, 2, 5, 1, 4]


def noted(red: int, reds: list[int]) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        reds.append(red)
        return pixel(red)

    return load


def test_a_message_of_a_stream_whose_deadline_would_pass_waits_all_the_same(
    batcher: Batcher, executor: GatedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "_wait_of", lambda _: 100.0)
    hold(batcher, executor)
    futures = [submit(batcher, n) for n in range(3)]
    ends = time.monotonic() + 50.0
    with pytest.raises(Overloaded), batcher.room(1, Call("unary", deadline=ends)):
        pass
    with batcher.room(1, Call("stream", deadline=ends, check_waiting=lambda: None)):
        executor.go.set()
        for future in futures:
            future.result(30)


def test_a_call_whose_deadline_would_pass_before_its_turn_is_refused(
    batcher: Batcher, executor: GatedExecutor, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinsight_server.inference.turns._PATIENCE_S", 0.0)  # who came first is due first
    hold(batcher, executor)
    threading.Timer(0.5, executor.go.set).start()
    submit(batcher, 1).result(30)  # from now on a picture is known to take a while
    hold(batcher, executor)
    futures = [submit(batcher, n) for n in range(3)]
    with (
        pytest.raises(Overloaded, match=r"Model `m` needs about \d+ ms to reach this call; its deadline is") as caught,
        batcher.room(1, Call("hasty", deadline=time.monotonic() + 0.01)),
    ):
        pass
    assert caught.value.reason == "DEADLINE_TOO_SHORT"
    assert caught.value.retry_after_s > 0
    refused = {"reason": "DEADLINE_TOO_SHORT"}
    assert metrics.registry.get_sample_value("twinsight_refused_total", refused) == 1
    with batcher.room(1, Call("calm", deadline=time.monotonic() + 60)), batcher.room(1, call()):
        pass
    executor.go.set()
    assert [red_of(one) for one in futures] == [0, 1, 2]


def test_a_lone_picture_of_an_idle_model_is_computed_by_its_callers_thread(
    batcher: Batcher, executor: GatedExecutor
) -> None:
    threads: list[int] = []

    def load() -> np.ndarray:
        threads.append(threading.get_ident())
        return pixel(3)

    future: Future[Answer] = Future()
    assert batcher.infer_alone(load, call(), future)
    assert red_of(future) == 3
    assert threads == [threading.get_ident()]
    assert batcher.is_idle
    hold(batcher, executor)
    assert not batcher.infer_alone(load, call(), Future())


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
    batcher.start()
    hold(batcher, executor)
    futures = [submit(batcher, n) for n in (1, 2)]
    batcher.announce()  # of a picture that never comes: closing does not wait for it
    executor.go.set()
    batcher.close()
    assert [red_of(one) for one in futures] == [1, 2]
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
    assert mine.stages().keys() == {"queue", "decode", "compute", "total"}
