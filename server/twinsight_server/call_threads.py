"""Threads that answer calls, and know how many of them are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

ResultT = TypeVar("ResultT")
P = ParamSpec("P")


class CallThreads(ThreadPoolExecutor):
    """A pool for gRPC's server.

    Args:
        count: how many threads there are at most.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count, thread_name_prefix="call")
        self._count = count
        self._in_work = deque[None]()  # as many as there are calls: adding and taking away need no lock

    @property
    def are_taken(self) -> bool:
        """Whether a call that came now would wait for a thread."""
        return len(self._in_work) >= self._count

    def submit(self, fn: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs) -> Future[ResultT]:
        """Has a call answered as soon as a thread is free."""

        def run() -> ResultT:
            try:
                return fn(*args, **kwargs)
            finally:
                self._in_work.pop()

        self._in_work.append(None)
        return super().submit(run)
