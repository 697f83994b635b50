"""When calls are measured, and when those of an open loop are due. All times are seconds of one monotonic clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Window:
    """The time of a run.

    Attributes:
        begin: of the warm-up.
        start: of what is measured.
        end: of what is measured; no call is started from here on.
    """

    begin: float
    start: float
    end: float

    @classmethod
    def after(cls, begin: float, *, warmup_s: float, duration_s: float) -> Self:
        """Returns the window of a run that begins at `begin`."""
        return cls(begin, begin + warmup_s, begin + warmup_s + duration_s)


class DueTimes:
    """Times at equal distances, handed out one after another, however late they are taken.

    They are fixed beforehand and never shifted, so a server that stalls does not keep calls from being due, and the
    wait of those that could not be sent is part of their latency. Measuring from the sending instead would leave out
    just the calls that suffered ("coordinated omission").

    Args:
        rate: due times a second.
        begin: the first of them.
        end: all of them are before it.
    """

    def __init__(self, rate: float, *, begin: float, end: float) -> None:
        self._rate = rate
        self._begin = begin
        self._end = end
        self._taken = 0

    def take(self) -> float | None:
        """Returns the next due time, None after the last."""
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
