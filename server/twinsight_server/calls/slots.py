"""A limit on concurrent calls."""

from __future__ import annotations

import threading


class Slots:
    """A semaphore whose state can be read.

    Attributes:
        count: number of slots.
    """

    def __init__(self, count: int) -> None:
        """Starts with all slots free.

        Args:
            count: number of slots.
        """
        self.count = self._free = count
        self._freed = threading.Condition(threading.Lock())

    @property
    def taken(self) -> int:
        """Number of slots in use."""
        return self.count - self._free

    @property
    def are_taken(self) -> bool:
        """Whether no slot was free a moment ago."""
        return self._free <= 0

    def take(self, timeout_s: float = 0.0) -> bool:
        """Takes a slot; returns whether one was free within the time."""
        with self._freed:
            if not self._free and timeout_s > 0:
                self._freed.wait_for(lambda: self._free, timeout_s)
            if not self._free:
                return False
            self._free -= 1
            return True

    def give_back(self) -> None:
        """Frees a slot."""
        with self._freed:
            self._free += 1
            self._freed.notify()
