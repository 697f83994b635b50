"""Work that the calling thread shares with others, which it starts for it."""

from __future__ import annotations

import _thread
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def share_work(work: Callable[[T], None], pieces: Iterable[T], *, threads: int) -> None:
    """Does the work on all pieces, in this thread and others that run on the same cores; returns once all is done.

    Nobody waits for a thread to begin: where the interpreter is busy, or the system gives no more threads, those that
    run do it all, at worst this one alone.

    Args:
        work: may be called from several threads at once.
        pieces: are begun in this order.
        threads: that work on them, this one included.

    Raises:
        BaseException: what `work` raised, or Ctrl-C. Pieces that were not begun by then are left.
    """
    left = deque(pieces)
    places = deque(range(min(threads, len(left)) - 1))
    helpers, outcomes, changed = len(places), deque[BaseException | None](), threading.Event()

    def help_out() -> None:
        if next(_taken(places), None) is None:  # too late
            return
        try:
            for piece in _taken(left):
                work(piece)
        except BaseException as error:  # noqa: BLE001 - raised below
            left.clear()
            outcomes.append(error)
        else:
            outcomes.append(None)
        changed.set()

    try:
        with suppress(RuntimeError):  # the system gives no more threads
            for _ in range(helpers):
                # `threading.Thread.start` would wait until the new thread has had the interpreter.
                _thread.start_new_thread(help_out, ())
        for piece in _taken(left):
            work(piece)
    finally:
        left.clear()
        helpers -= sum(1 for _ in _taken(places))
        while len(outcomes) < helpers:
            try:
                changed.wait()
                changed.clear()
            except BaseException as interrupt:  # noqa: BLE001 - what they work on must not be let go before they end
                outcomes.appendleft(interrupt)
                helpers += 1
        errors = [one for one in outcomes if one is not None]
        outcomes.clear()
    if errors:
        try:
            raise errors[0]
        finally:
            del errors  # they refer to this frame


def _taken(waiting: deque[T]) -> Iterator[T]:
    """Yields one after the other of those that wait, of which other threads take some."""
    while True:
        try:
            one = waiting.popleft()
        except IndexError:
            return
        yield one
