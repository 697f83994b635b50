"""Work that a thread shares with others."""

from __future__ import annotations

import threading

import pytest

from twinsight_core.host.shared_work import share_work


def test_every_piece_is_worked_on_once_by_threads_that_run_at_once_and_end() -> None:
    together = threading.Barrier(3)
    done: list[int] = []
    before = threading.active_count()

    def work(piece: int) -> None:
        if piece < 3:
            together.wait(10)  # none goes on before three have begun
        done.append(piece)

    share_work(work, range(20), threads=3)
    assert sorted(done) == list(range(20))
    assert threading.active_count() == before


@pytest.mark.parametrize("pieces", [0, 1])
def test_no_thread_is_started_without_a_piece_for_it(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("started a thread"))
    done: list[int] = []
    share_work(done.append, range(pieces), threads=8)
    assert done == list(range(pieces))


@pytest.mark.parametrize("given", [0, 1])
def test_where_the_system_gives_fewer_threads_those_that_there_are_do_it_all(
    given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, left = threading.Thread.start, [None] * given

    def scarce(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    done: list[int] = []
    share_work(done.append, range(50), threads=4)
    assert sorted(done) == list(range(50))
    assert not left


def test_the_first_error_is_raised_after_all_threads_have_ended_and_the_rest_is_left() -> None:
    together = threading.Barrier(2)
    failed = threading.Event()
    done: list[int] = []

    def work(piece: int) -> None:
        if piece < 2:
            together.wait(10)
        if piece == 0:
            failed.set()
            raise MemoryError("0")
        assert failed.wait(10)
        done.append(piece)

    with pytest.raises(MemoryError, match="0"):
        share_work(work, range(100), threads=2)
    assert not [one for one in threading.enumerate() if one.name == "shared-work"]
    assert 1 in done
    assert len(done) < 99
