"""Places for a number of calls at once."""

from __future__ import annotations

import threading


class Slots:
    """A semaphore that can be looked at."""

    def __init__(self, count: int) -> None:
        """Frees them all.

        Args:
            count: how many there are.
        """
        self._count = self._free = count
        self._freed = threading.Condition(threading.Lock())

    @property
    def taken(self) -> int:
        """How many are taken."""
        return self._count - self._free

    @property
    def are_taken(self) -> bool:
        """Whether there was no free one a moment ago."""
        return self._free <= 0

    def take(self, timeout_s: float = 0.0) -> bool:
        """Takes one; returns whether there was one within the time."""
        with self._freed:
            if not self._free and timeout_s > 0:
                self._freed.wait_for(lambda: self._free, timeout_s)
            if not self._free:
                return False
            self._free -= 1
            return True

    def give_back(self) -> None:
        """Frees one."""
        with self._freed:
            self._free += 1
            self._freed.notify()
