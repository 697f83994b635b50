from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from twinsight_core.errors import Unavailable
from twinsight_server.inference.fair_pool import FairPool


class Desk:
    """A pool of one thread, held at work until `go`; notes the order in which the rest is done."""

    def __init__(self) -> None:
        self.pool = FairPool(1, "test")
        self.go = threading.Event()
        self.done: list[str] = []
        held = threading.Event()

        def hold() -> None:
            held.set()
            assert self.go.wait(30)

        self.pool.submit("held", 0.0, hold)
        assert held.wait(30)

    def put(self, model: str, name: str, due: float = 0.0) -> None:
        self.pool.submit(model, due, self._note(name))

    def order(self) -> list[str]:
        self.go.set()
        self.pool.close()
        return self.done

    def _note(self, name: str) -> Callable[[], None]:
        return lambda: self.done.append(name)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.order()


def test_a_models_work_is_done_in_the_order_of_coming(desk: Desk) -> None:
    for name in "abc":
        desk.put("m", name)
    assert desk.order() == ["a", "b", "c"]


def test_what_is_due_first_is_done_first(desk: Desk) -> None:
    for name, due in (("stream", 10.0), ("unary", 1.0), ("soon", 0.5), ("later", 1.5)):
        desk.put("m", name, due)
    assert desk.order() == ["soon", "unary", "later", "stream"]


def test_a_flooded_model_is_one_piece_ahead_of_another_at_most(desk: Desk) -> None:
    for n in range(100):
        desk.put("flooded", f"flooded {n}", due=0.0)
    for n in range(3):
        desk.put("light", f"light {n}", due=9.0)
    order = desk.order()
    assert [order.index(f"light {n}") for n in range(3)] == [1, 3, 5]
    assert len(order) == 103


def test_every_model_has_its_turn(desk: Desk) -> None:
    for model in "abc":
        for n in range(3):
            desk.put(model, f"{model}{n}")
    assert desk.order() == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_a_closed_pool_takes_no_work_and_has_done_all(desk: Desk) -> None:
    desk.put("m", "before")
    assert desk.order() == ["before"]
    with pytest.raises(RuntimeError):
        desk.put("m", "after")
    assert desk.done == ["before"]


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_where_no_further_thread_can_be_started_those_that_there_are_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, held, go, done = FairPool(3, "test"), threading.Event(), threading.Event(), list[int]()

    def hold() -> None:
        held.set()
        assert go.wait(30)

    pool.submit("m", 0.0, hold)
    assert held.wait(30)
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", no_thread)
        for n in range(10):
            pool.submit("m", 0.0, partial(done.append, n))
    go.set()
    pool.close()
    assert done == list(range(10))


def test_work_that_no_thread_would_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, done = FairPool(2, "test"), list[str]()
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(Unavailable) as refused:
            pool.submit("m", 0.0, lambda: done.append("refused"))
    assert refused.value.reason == "THREADS_EXHAUSTED"
    pool.submit("m", 0.0, lambda: done.append("taken"))
    pool.close()
    assert done == ["taken"]


def test_as_many_threads_as_there_is_work_for_but_no_more_than_allowed() -> None:
    pool, together, ran = FairPool(3, "test"), threading.Barrier(3), set[int]()

    def wait() -> None:
        ran.add(threading.get_ident())
        together.wait(30)

    for _ in range(9):
        pool.submit("m", 0.0, wait)
    pool.close()
    assert together.n_waiting == 0
    assert len(ran) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_by_an_error_is_followed_by_another() -> None:
    fails, ended, done = [True], threading.Event(), threading.Event()

    def fails_once() -> None:
        if fails:
            fails.pop()
            ended.set()
            raise MemoryError

    pool = FairPool(1, "test", initializer=fails_once)
    pool.submit("m", 0.0, lambda: None)
    assert ended.wait(30)
    for thread in pool._threads.copy():
        thread.join(30)
    pool.submit("m", 0.0, done.set)
    assert done.wait(30)
    pool.close()
