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
from concurrent.futures import ThreadPoolExecutor


class FairPool:
    """A thread pool with a queue for each model."""

    def __init__(self, threads: int, name: str, *, initializer: Callable[[], None] | None = None) -> None:
        """Starts threads only once there is work.

        Args:
            threads: number of threads.
            name: prefix of the threads' names.
            initializer: called by each thread when it starts.
        """
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=initializer)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[str, list[tuple[float, int, Callable[[], None]]]] = {}  # heaps, none of them empty
        self._turns: deque[str] = deque()  # models with work, the next one first

    def submit(self, model: str, due: float, work: Callable[[], None]) -> None:
        """Queues work.

        Args:
            model: the model that it is for.
            due: earlier work goes first; among equals, what was submitted first.
            work: must not raise.

        Raises:
            RuntimeError: the pool is closed.
        """
        with self._lock:
            self._threads.submit(self._work)  # runs one piece of work, whichever is next by then
            if model not in self._waiting:
                self._waiting[model] = []
                self._turns.append(model)
            heapq.heappush(self._waiting[model], (due, next(self._numbers), work))

    def close(self) -> None:
        """Finishes the queued work and stops the threads."""
        self._threads.shutdown()

    def _work(self) -> None:
        with self._lock:
            model = self._turns.popleft()
            _, _, work = heapq.heappop(self._waiting[model])
            if self._waiting[model]:
                self._turns.append(model)
            else:
                del self._waiting[model]
        work()
