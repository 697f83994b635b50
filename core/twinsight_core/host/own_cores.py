"""Spreads threads that compute at the same time over the cores, where each core has one of them.

Linux may leave two busy threads on one core for several milliseconds while another core is idle: it looks for work for
a core that becomes idle only if it expects the pause to be long, and threads that pass the interpreter lock on make
short ones. With 16 calls in flight a server on two cores left a ninth of them idle, and a seventh of its calls undone.

OpenVINO lets a thread run anywhere while it computes a batch, and puts it back on its core afterwards, which is enough:
two threads that came together part again after each batch.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twinsight_core.host.cores import CAN_CHOOSE, run_on, usable_cores, use_all_cores

_users: Counter[int] = Counter()
"""How many threads have taken each core."""
_changing = threading.Lock()


def _core_teller() -> Callable[[], int]:
    """Returns the C library's `sched_getcpu`; without one, a function that knows no core.

    It is called with the interpreter lock held (`PyDLL`): getting that back would take longer than the call.
    """
    return getattr(ctypes.PyDLL(None), "sched_getcpu", lambda: -1)


_current_core = _core_teller()


class OwnCore:
    """The core that one thread has from `take` to `leave`, which that thread calls. Use `own_core`."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted and CAN_CHOOSE
        self._core: int | None = None  # while it is taken
        self._home: int | None = None  # taken last: its caches may still know the thread

    def take(self) -> None:
        """Keeps the calling thread on a core that no other thread has taken, or else one that the fewest have."""
        if self._core is not None or not self._wanted:
            return
        with _changing:
            fewest = min(_users[one] for one in usable_cores())
            good = {one for one in usable_cores() if _users[one] == fewest}
            core = self._home if self._home in good else _current_core()
            if core not in good:
                core = min(good)
            if not run_on({core}):
                return
            _users[core] += 1
        self._core = self._home = core

    def leave(self) -> None:
        """Lets the calling thread run anywhere, and leaves its core to others."""
        if self._core is None:
            return
        with _changing:
            _users[self._core] -= 1
        self._core = None
        use_all_cores()


@contextmanager
def own_core(*, wanted: bool) -> Iterator[OwnCore]:
    """Yields the calling thread's core, not taken yet; leaves it at the end.

    Args:
        wanted: whether `take` is to have an effect. A thread that starts others must not: they would inherit its core.
    """
    core = OwnCore(wanted=wanted)
    try:
        yield core
    finally:
        core.leave()
