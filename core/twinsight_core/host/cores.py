"""Controls on which cores threads run.

An interpreter runs one of its threads at a time. If the threads that answer calls are spread over the cores, each that
passes the interpreter lock on wakes another core, which on a virtual machine takes tens of microseconds, and Python's
objects move from cache to cache: an answer of 75 us of Python cost a server on two cores 0.87 ms of CPU time, and
0.43 ms with its threads on one of them. They lose little by staying on it: work outside the interpreter that takes a
millisecond or more has its own threads, on all cores, or leaves the one core for its duration (`on_all_cores`).

Threads inherit their cores from the thread that starts them. So a thread that is started by one on a single core, but
must not stay there, begins with `use_all_cores`. What was inherited is not known here: a thread that leaves its core by
`on_all_cores` must have called `keep_to` itself.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
from collections.abc import Iterator, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

from twinsight_core.host.cpu_quota import cpu_quota

CAN_CHOOSE = hasattr(os, "sched_setaffinity")
"""Whether this system can place threads; otherwise nothing in this module has an effect."""


class _Kept(threading.local):
    """The cores that the calling thread stays on; None if it was not told to."""

    cores: frozenset[int] | None = None


_kept = _Kept()


def usable_cores() -> frozenset[int]:
    """Returns the cores that the process may use: those it had when this was imported, whatever happened since."""
    return _USABLE


@cache
def core_count() -> int:
    """Returns how many threads may compute at once: one for each usable core, fewer where a quota has no time for all.

    What a quota leaves beside whole cores is for the threads that answer calls.
    """
    return max(1, math.floor(min(len(_USABLE), cpu_quota())))


def one_core() -> frozenset[int]:
    """Returns one of the usable cores, the same for all of the process, and any for each: containers are all alike."""
    return _ONE


def keep_to(cores: frozenset[int]) -> None:
    """Keeps the calling thread, and threads it starts from now on, on some cores; if those are gone, anywhere."""
    if run_on(cores):
        _kept.cores = cores


def use_all_cores() -> None:
    """Lets the calling thread, and threads it starts from now on, run anywhere."""
    _kept.cores = None
    run_on(_USABLE)


@contextmanager
def keeping_to(cores: frozenset[int]) -> Iterator[None]:
    """Keeps the calling thread, and threads it starts meanwhile, on some cores within the block."""
    kept, ran_on = _kept.cores, _runs_on()
    keep_to(cores)
    try:
        yield
    finally:
        run_on(ran_on)
        _kept.cores = kept


def on_all_cores() -> AbstractContextManager[None]:
    """Lets the calling thread, and threads it starts meanwhile, run anywhere within the block.

    For work outside the interpreter that takes a millisecond or more: going back costs tens of microseconds.
    """
    return nullcontext() if _kept.cores in {None, _USABLE} else keeping_to(_USABLE)


def run_on(cores: Set[int]) -> bool:
    """Moves the calling thread to some cores; returns whether that was possible."""
    if not CAN_CHOOSE:
        return False
    try:
        os.sched_setaffinity(0, cores)  # 0: the calling thread
    except OSError:  # the process was moved elsewhere meanwhile: where it runs now is the system's choice
        return False
    return True


def _runs_on() -> frozenset[int]:
    if CAN_CHOOSE:
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


_USABLE = _runs_on()
_ONE = frozenset({secrets.choice(sorted(_USABLE))})
