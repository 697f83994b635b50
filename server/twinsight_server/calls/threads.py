"""The thread pool that answers calls, and knows how many of its threads are busy.

One thread starts with the pool, the others on demand. If the system starts no more of them, calls share the existing
ones: an error would end the one thread in which gRPC receives calls. The pool tries again after a second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import structlog

from twinsight_core.errors import StartupError
from twinsight_core.host.cores import keep_to

log = structlog.stdlib.get_logger("twinsight.calls")

_LOOK_S = 0.01
_TRY_AGAIN_S = 1.0

ResultT = TypeVar("ResultT")
P = ParamSpec("P")


class CallThreads(ThreadPoolExecutor):
    """A pool for gRPC's server.

    Args:
        count: largest number of threads.
        cores: the cores that they are pinned to.

    Raises:
        StartupError: not even one thread can be started.
    """

    def __init__(self, count: int, *, cores: frozenset[int]) -> None:
        # Threads inherit the cores anyway, but `on_all_cores` has to know them.
        super().__init__(count, thread_name_prefix="call", initializer=partial(keep_to, cores))
        self._count = count
        self._in_work = deque[None]()  # one entry per call: append and pop need no lock
        self._short_until_s = 0.0
        super().submit(int)
        if not self._threads:
            raise StartupError(
                "No thread can be started to answer calls: the limit of processes and threads (`ulimit -u`, or "
                "`pids.max` of the container) is reached.",
                reason="NO_THREADS",
            )

    @property
    def are_taken(self) -> bool:
        """Whether a call that arrives now would wait for a thread."""
        in_work = len(self._in_work)
        return in_work >= self._count or (in_work >= len(self._threads) and time.monotonic() < self._short_until_s)

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until no call has a thread; returns whether that happened in time."""
        ends = time.monotonic() + timeout_s
        while self._in_work and time.monotonic() < ends:
            time.sleep(_LOOK_S)
        return not self._in_work

    def submit(self, fn: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs) -> Future[ResultT]:
        """Runs a call as soon as a thread is free."""

        def run() -> ResultT:
            try:
                return fn(*args, **kwargs)
            finally:
                self._in_work.pop()

        self._in_work.append(None)
        try:
            return super().submit(run)
        except RuntimeError:  # it was shut down
            self._in_work.pop()
            raise

    def _adjust_thread_count(self) -> None:
        """Starts a thread if none is free; the call is queued already, and stays queued if that fails."""
        if len(self._in_work) > len(self._threads):
            # The pool counts a thread as idle after each call, even if other calls are waiting for it.
            while self._idle_semaphore.acquire(blocking=False):
                pass
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            if not self._short_until_s:  # logged once
                log.error(
                    "can't start more threads; calls share the existing ones",
                    threads=len(self._threads),
                    why=str(error),
                )
            self._short_until_s = time.monotonic() + _TRY_AGAIN_S
