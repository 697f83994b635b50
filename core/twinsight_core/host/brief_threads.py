"""Threads of collections, which run only while there is work: of thousands of collections few have any at a time.

A collection with work for its thread starts one, unless it has one. A thread without work waits briefly for more, and
ends. What starts and ends such threads serves others as well.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from twinsight_core.host.cores import use_all_cores

LINGER_S = 1.0
"""How long a thread waits for more work: starting one costs the caller about 0.1 ms."""

_LEAST_S = 0.2
"""That a thread without work has to end."""

NO_THREADS = (
    "No more threads can be started: the limit of processes and threads (`ulimit -u`, or `pids.max` of the container) "
    "is reached."
)


def start_thread(run: Callable[[], None], *, name: str) -> threading.Thread:
    """Returns a thread that was started, on all cores.

    Args:
        run: what it does.
        name: for debuggers.

    Raises:
        RuntimeError: the system gives no more threads.
    """

    def anywhere() -> None:
        use_all_cores()
        run()

    thread = threading.Thread(target=anywhere, name=name, daemon=True)
    thread.start()
    return thread


def joined(thread: threading.Thread | None, *, until: float) -> bool:
    """Waits for a thread to end; returns whether it did, or there is none.

    Args:
        thread: the thread.
        until: how long, at least a moment, on `time.monotonic`'s scale.
    """
    if thread is None:
        return True
    thread.join(None if until == math.inf else max(_LEAST_S, until - time.monotonic()))
    return not thread.is_alive()
