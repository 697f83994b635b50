"""A thread pool that decodes for several models in turn, and for each model what is due first.

With a first-come, first-served queue, the pictures of a flooded model would delay those of all other models, and
streams those of unary calls; the batchers behind it could not make up for that.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable

import structlog

from twinsight_core.errors import Unavailable
from twinsight_core.host.brief_threads import NO_THREADS, start_thread

log = structlog.stdlib.get_logger("twinsight.pipeline")


class FairPool:
    """A thread pool with a queue for each model. Its threads run on all cores."""

    def __init__(self, threads: int, name: str, *, initializer: Callable[[], None] = lambda: None) -> None:
        """Starts threads only once there is work.

        Args:
            threads: number of threads; fewer if the system gives no more of them.
            name: prefix of the threads' names.
            initializer: called by each thread when it starts.
        """
        self._most = threads
        self._name = name
        self._initializer = initializer
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: dict[str, list[tuple[float, int, Callable[[], None]]]] = {}  # heaps, none of them empty
        self._turns: deque[str] = deque()  # models with work, the next one first
        self._left = 0  # pieces of work that no thread has begun
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def submit(self, model: str, due: float, work: Callable[[], None]) -> None:
        """Queues work.

        Args:
            model: the model that it is for.
            due: earlier work goes first; among equals, what was submitted first.
            work: should not raise; what it raises is logged.

        Raises:
            RuntimeError: the pool is closed.
            Unavailable: it has no thread, and none can be started.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("The pool is closed.")
            if self._left >= self._idle and len(self._threads) < self._most:
                self._start_one()
            if model not in self._waiting:
                self._waiting[model] = []
                self._turns.append(model)
            heapq.heappush(self._waiting[model], (due, next(self._numbers), work))
            self._left += 1
            self._changed.notify()

    def close(self) -> None:
        """Finishes the queued work and stops the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        while threads := self._threads.copy():
            threads[0].join()

    def _start_one(self) -> None:
        try:
            self._threads.append(start_thread(self._run, name=f"{self._name}-{len(self._threads)}"))
        except RuntimeError as error:
            if not self._threads:
                raise Unavailable(NO_THREADS, reason="THREADS_EXHAUSTED") from error

    def _run(self) -> None:
        try:
            try:
                self._initializer()
            except Exception:  # it works without
                log.exception("a decoding thread could not be set up")
            while work := self._next():
                try:
                    work()
                except Exception:  # the thread need not end by it
                    log.exception("decoding failed")
        finally:
            with self._changed:
                self._threads.remove(threading.current_thread())
                if self._left and not self._threads:
                    self._start_one()

    def _next(self) -> Callable[[], None] | None:
        """Waits for work; returns what is next, or None once the pool is closed and all is begun."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._turns or self._closed)
            self._idle -= 1
            if not self._turns:
                return None
            model = self._turns.popleft()
            _, _, work = heapq.heappop(self._waiting[model])
            self._left -= 1
            if self._waiting[model]:
                self._turns.append(model)
            else:
                del self._waiting[model]
            return work
