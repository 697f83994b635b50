"""Threads that decode for several models in turns, and for each of them first what is due first.

A queue in the order of coming would let a model that is flooded keep the others' pictures waiting behind all of its
own, and streams those of unary calls; the batchers behind it could not make up for that.
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
        """Starts no thread before there is work.

        Args:
            threads: how many work at once.
            name: the threads' names begin with it.
            initializer: is called by each thread first.
        """
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=initializer)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[str, list[tuple[float, int, Callable[[], None]]]] = {}  # heaps, none of them empty
        self._turns: deque[str] = deque()  # their names, the next first

    def submit(self, model: str, due: float, work: Callable[[], None]) -> None:
        """Queues work.

        Args:
            model: whose turn it takes.
            due: what is due first goes first, and among equals what came first.
            work: raises nothing.

        Raises:
            RuntimeError: the pool is closed.
        """
        with self._lock:
            self._threads.submit(self._work)  # for one piece of work, whichever is next then
            if model not in self._waiting:
                self._waiting[model] = []
                self._turns.append(model)
            heapq.heappush(self._waiting[model], (due, next(self._numbers), work))

    def close(self) -> None:
        """Finishes what waits and stops the threads."""
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
