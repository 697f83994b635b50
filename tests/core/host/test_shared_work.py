"""Work that a thread shares with others."""

from __future__ import annotations

import _thread
import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from twinsight_core.host.shared_work import share_work


def test_every_piece_is_worked_on_once_by_threads_that_run_at_once() -> None:
    together = threading.Barrier(3)
    done: list[int] = []

    def work(piece: int) -> None:
        if piece < 3:
            together.wait(10)  # none goes on before three have begun
        done.append(piece)

    share_work(work, range(20), threads=3)
    assert sorted(done) == list(range(20))


@pytest.mark.parametrize("pieces", [0, 1])
def test_no_thread_is_started_without_a_piece_for_it(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_thread, "start_new_thread", lambda *_: pytest.fail("started a thread"))
    done: list[int] = []
    share_work(done.append, range(pieces), threads=8)
    assert done == list(range(pieces))


@pytest.mark.parametrize("given", [0, 1])
def test_where_the_system_gives_fewer_threads_those_that_there_are_do_it_all(
    given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, left = _thread.start_new_thread, [None] * given

    def scarce(run: Callable[[], None], _: tuple[()]) -> int:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        return start(run, ())

    monkeypatch.setattr(_thread, "start_new_thread", scarce)
    done: list[int] = []
    share_work(done.append, range(50), threads=4)
    assert sorted(done) == list(range(50))
    assert not left


def test_nobody_waits_for_a_thread_that_begins_late(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Callable[[], None]] = []
    monkeypatch.setattr(_thread, "start_new_thread", lambda run, _: begun.append(run))
    done: list[int] = []
    share_work(done.append, range(50), threads=4)
    assert done == list(range(50))
    for run in begun:
        run()
    assert done == list(range(50)), "there is nothing left for it"


@pytest.mark.parametrize("fails", ["the one that asks", "a helper"])
def test_an_error_is_raised_after_all_threads_have_ended_and_the_rest_is_left(fails: str) -> None:
    together, failed = threading.Barrier(2), threading.Event()
    at_work: set[int] = set()
    done: list[int] = []
    asks = threading.get_ident()

    def work(piece: int) -> None:
        at_work.add(threading.get_ident())
        if piece < 2:
            together.wait(10)
            if (threading.get_ident() == asks) == (fails == "the one that asks"):
                at_work.remove(threading.get_ident())
                failed.set()
                raise MemoryError(fails)
        assert failed.wait(10)
        done.append(piece)
        at_work.remove(threading.get_ident())

    with pytest.raises(MemoryError, match=fails):
        share_work(work, range(100), threads=2)
    assert not at_work
    assert done
    assert len(done) < 99


def test_a_helper_that_can_not_be_started_for_want_of_memory_leaves_none_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, begun, go, done = _thread.start_new_thread, threading.Event(), threading.Event(), list[int]()

    def fails_second(run: Callable[[], None], _: tuple[()]) -> int:
        if begun.is_set():
            threading.Timer(0.05, go.set).start()
            raise MemoryError
        started = start(run, ())
        assert begun.wait(10)
        return started

    def work(piece: int) -> None:
        begun.set()
        assert go.wait(10)
        done.append(piece)

    monkeypatch.setattr(_thread, "start_new_thread", fails_second)
    with pytest.raises(MemoryError):
        share_work(work, range(10), threads=3)
    assert done == [0]


@pytest.mark.parametrize("failing", [{0}, {1}, {0, 1}])
def test_what_failed_is_not_kept_in_memory(failing: set[int]) -> None:
    class Kept:
        """What the work has to do with."""

    together = threading.Barrier(2)

    def share() -> weakref.ref[Kept]:
        kept = Kept()

        def work(piece: int) -> None:
            together.wait(10)
            if piece in failing:
                raise ValueError(kept)

        with pytest.raises(ValueError, match="Kept"):
            share_work(work, range(2), threads=2)
        return weakref.ref(kept)

    gc.disable()
    try:
        assert share()() is None
    finally:
        gc.enable()
