"""Threads that answer calls, where the system gives no more of them."""

from __future__ import annotations

import threading

import pytest
import structlog.testing

from twinsight_core.errors import StartupError
from twinsight_core.host.cores import usable_cores
from twinsight_server.calls.threads import CallThreads


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_calls_make_do_with_the_threads_there_are_where_no_more_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, go = CallThreads(3, cores=usable_cores()), threading.Event()
    now = 100.0
    monkeypatch.setattr("twinsight_server.calls.threads.time.monotonic", lambda: now)
    with monkeypatch.context() as short, structlog.testing.capture_logs() as logged:
        short.setattr(threading.Thread, "start", no_thread)
        calls = [threads.submit(go.wait, 30)]
        assert not threads.are_taken  # as far as is known
        calls.append(threads.submit(go.wait, 30))
        assert threads.are_taken
        now += 2  # when it is worth another attempt
        assert not threads.are_taken
        calls.append(threads.submit(go.wait, 30))
        assert threads.are_taken
    assert [line["event"] for line in logged] == ["can't start more threads; calls share the existing ones"]
    at_once = threading.Barrier(2)
    go.set()
    assert [call.result(30) for call in calls] == [True] * 3
    for call in [threads.submit(at_once.wait, 30) for _ in range(2)]:  # there is a second thread now
        call.result(30)
    assert threads.wait_idle(30)
    threads.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.submit(int)
    assert threads.wait_idle(0.1)


def test_a_pool_without_a_single_thread_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(StartupError, match="No thread can be started to answer calls"):
        CallThreads(2, cores=usable_cores())
