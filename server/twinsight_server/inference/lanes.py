"""The threads that serve a model, one for each of its lanes.

A lane is lost when its thread hangs in the model, or ends by an error. It gets another thread, which first renews the
lane (`Engine.renew`) and takes it over. Where no thread can be started, or the lane can't be renewed, that is retried.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

import structlog

from twinsight_core.engine import Engine
from twinsight_core.errors import StartupError
from twinsight_core.host.brief_threads import NO_THREADS, joined, start_thread
from twinsight_server.inference.turns import Infer

log = structlog.stdlib.get_logger("twinsight.batcher")

_RENEW_AGAIN_S = 5.0


class Lanes:
    """The lanes of one model. May be used from any thread."""

    def __init__(self, model: str, engine: Engine, work: Callable[[int, Infer], None]) -> None:
        """Starts no thread yet.

        Args:
            model: the model's name, for logs and the threads.
            engine: runs the model.
            work: what a lane does, given its number and what runs the model there; returns when the model is closed, or
                the lane has another thread.
        """
        self._model = model
        self._engine = engine
        self._work = work
        self._lock = threading.Lock()
        self._threads: dict[int, threading.Thread] = {}
        self._lost: dict[int, float] = {}  # when each is to be replaced; infinity: a thread is at it
        self._closed = False

    @property
    def lost(self) -> int:
        """How many lanes are lost and not replaced yet."""
        return len(self._lost)

    def start(self) -> None:
        """Starts the threads.

        Raises:
            StartupError: the system gives no more threads.
        """
        try:
            for lane in range(self._engine.lanes):
                self._start(lane)
        except RuntimeError as error:
            raise StartupError(NO_THREADS, reason="NO_THREADS") from error

    def lose(self, lanes: Iterable[int]) -> None:
        """Gives up the threads of some lanes, and replaces the lanes now."""
        with self._lock:
            self._lost.update(dict.fromkeys(lanes, 0.0))
        self.replace()

    def replace(self) -> None:
        """Replaces lost lanes, in threads of their own: it may take seconds, or for ever on a faulty device.

        Must be called periodically, for those where that failed.
        """
        now = time.monotonic()
        with self._lock:
            due = [lane for lane, since in self._lost.items() if since <= now]
        for lane in due:
            try:
                self._start(lane)
            except Exception:  # no thread can be started
                with self._lock:
                    self._lost[lane] = time.monotonic() + _RENEW_AGAIN_S
                log.exception("lane can't be renewed", model=self._model, lane=lane)

    def close(self, timeout_s: float) -> None:
        """Waits for the threads, whose work has to end by itself, and replaces none from now on."""
        with self._lock:
            self._closed = True
            threads = list(self._threads.values())
        until = time.monotonic() + timeout_s
        for thread in threads:
            if not joined(thread, until=until):
                log.warning("lane does not stop", model=self._model, lane=thread.name)

    def _start(self, lane: int) -> None:
        with self._lock:
            if self._closed or self._lost.get(lane) == math.inf:
                return
            self._threads[lane] = start_thread(partial(self._run, lane), name=f"lane-{self._model}-{lane}")
            if lane in self._lost:
                self._lost[lane] = math.inf

    def _run(self, lane: int) -> None:
        again_s = _RENEW_AGAIN_S
        try:
            with self._lock:
                is_lost = lane in self._lost
            if is_lost:
                self._engine.renew(lane)
            infer = self._engine.lane(lane)
            with self._lock:
                self._lost.pop(lane, None)
            again_s = 0.0  # what it works on may be at fault rather than the lane
            self._work(lane, infer)
        except BaseException:
            with self._lock:
                if self._threads[lane] is threading.current_thread():
                    self._lost[lane] = time.monotonic() + again_s
            log.exception("lane failed", model=self._model, lane=lane)
