"""Work that the calling thread shares with others, which it starts for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def share_work(work: Callable[[T], None], pieces: Iterable[T], *, threads: int) -> None:
    """Does the work on all pieces, in this thread and others that run on the same cores; returns once they have ended.

    Where the system gives fewer threads, those that there are do it all, at worst this one alone.

    Args:
        work: may be called from several threads at once.
        pieces: are begun in this order.
        threads: that work on them, this one included.

    Raises:
        BaseException: the first that `work` raised. Pieces that were not begun by then are left.
    """
    left = deque(pieces)
    raised: list[BaseException] = []

    def run() -> None:
        while left and not raised:
            try:
                piece = left.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                work(piece)
            except BaseException as error:  # noqa: BLE001 - raised below
                raised.append(error)

    others = [threading.Thread(target=run, name="shared-work", daemon=True) for _ in range(min(threads, len(left)) - 1)]
    for other in others:
        try:
            other.start()
        except RuntimeError:  # the system gives no more
            break
    run()
    for other in others:
        while other.is_alive():
            try:
                other.join()
            except BaseException as error:  # noqa: BLE001 - Ctrl-C: what they work on must not be let go before they end
                raised.append(error)
    if raised:
        raise raised[0]
