"""Threads that answer calls, and know how many of them are taken."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import structlog

from twinsight_core.cores import keep_to

_LOOK_S = 0.01
log = structlog.stdlib.get_logger("twinsight.server")

ResultT = TypeVar("ResultT")
P = ParamSpec("P")


class CallThreads(ThreadPoolExecutor):
    """A pool for gRPC's server.

    Args:
        count: how many threads there are at most.
        cores: that they keep to.
    """

    def __init__(self, count: int, *, cores: frozenset[int]) -> None:
        # They inherit them, too, but `on_all_cores` has to know.
        super().__init__(count, thread_name_prefix="call", initializer=partial(keep_to, cores))
        self._count = count
        self._in_work = deque[None]()  # as many as there are calls: adding and taking away need no lock

    @property
    def are_taken(self) -> bool:
        """Whether a call that came now would wait for a thread."""
        return len(self._in_work) >= self._count

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until no call has a thread; returns whether that came about."""
        ends = time.monotonic() + timeout_s
        while self._in_work and time.monotonic() < ends:
            time.sleep(_LOOK_S)
        return not self._in_work

    def submit(self, fn: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs) -> Future[ResultT]:
        """Has a call answered as soon as a thread is free."""

        def run() -> ResultT:
            try:
                return fn(*args, **kwargs)
            finally:
                self._in_work.pop()

        self._in_work.append(None)
        return super().submit(run)

    def _adjust_thread_count(self) -> None:
        """Starts a thread where there is room for one and none waits.

        Where the system gives none, the call waits for those that there are, or for one that the next call brings
        about: an error here would end the one thread that takes calls from gRPC.
        """
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            log.error("no thread can be started; calls wait", error=str(error), threads=len(self._threads))
