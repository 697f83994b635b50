"""When calls are measured, and when those of an open loop are due; all times in seconds of one monotonic clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Window:
    """The times of a run.

    Attributes:
        begin: start of the warm-up.
        start: start of the measured time.
        end: end of the measured time; no call starts from here on.
    """

    begin: float
    start: float
    end: float

    @classmethod
    def after(cls, begin: float, *, warmup_s: float, duration_s: float) -> Self:
        """Returns the window of a run that begins at `begin`."""
        return cls(begin, begin + warmup_s, begin + warmup_s + duration_s)


class DueTimes:
    """Times at equal intervals, handed out one after another, however late they are taken.

    They are fixed in advance and never shifted: a server that stalls does not delay when calls are due, and the wait of
    calls that could not be sent is part of their latency. Measuring from when they are sent would leave out the very
    calls that suffered ("coordinated omission").

    Args:
        rate: due times per second.
        begin: the first of them.
        end: they are all before this time.
    """

    def __init__(self, rate: float, *, begin: float, end: float) -> None:
        self._rate = rate
        self._begin = begin
        self._end = end
        self._taken = 0

    def take(self) -> float | None:
        """Returns the next due time; None after the last."""
        due = self._at(self._taken)
        if due >= self._end:
            return None
        self._taken += 1
        return due

    def count_before(self, time: float) -> int:
        """Returns how many due times there are before `time`, taken or not."""
        time = min(time, self._end)
        count = max(0, math.ceil((time - self._begin) * self._rate))
        while count and self._at(count - 1) >= time:  # the product may be rounded up
            count -= 1
        return count

    def _at(self, place: int) -> float:
        return self._begin + place / self._rate
