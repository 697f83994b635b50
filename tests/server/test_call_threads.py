"""The threads that answer calls, where the system gives no more of them."""

from __future__ import annotations

import threading

import pytest
import structlog.testing

from twinsight_core.cores import usable_cores
from twinsight_server.call_threads import CallThreads


def test_calls_wait_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, start = threading.Event(), threading.Thread.start
    with CallThreads(4, cores=usable_cores()) as threads:
        first = threads.submit(goes_on.wait)

        def refused(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logged:
            patch.setattr(threading.Thread, "start", refused)
            second = threads.submit(lambda: "answered")
        assert [line["event"] for line in logged] == ["no thread can be started; calls wait"]
        assert threading.Thread.start is start
        goes_on.set()
        assert first.result(10)
        assert second.result(10) == "answered"
        assert threads.wait_idle(10)
        assert not threads.are_taken


def test_a_call_without_any_thread_is_answered_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with CallThreads(4, cores=usable_cores()) as threads:

        def refused(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            waiting = threads.submit(lambda: 1)
        assert not waiting.done()
        assert threads.submit(lambda: 2).result(10) == 2
        assert waiting.result(10) == 1
