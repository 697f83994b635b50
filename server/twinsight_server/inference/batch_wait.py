"""How long a lane for a device waits for a batch to fill: a fixed time, or one tuned to a goal for the 99th percentile.

A larger batch costs the device less per picture, but its pictures wait longer. That is worth it while the device is
busy, others arrive within the wait, and the goal is met. `TunedWait` finds out by trying:

1. Among the last `WINDOW` pictures it counts those that took longer than the goal. Once they are more than one in a
   hundred, the wait is halved at once, and counting restarts with pictures that arrive after that.
2. After every `PERIOD` batches it decides how to continue. If the lanes were mostly idle, or waited and few pictures
   joined, waiting gains nothing, and the wait is halved; below one step it becomes zero.
3. If the lanes were busy and 99 of 100 pictures stayed well within the goal, the wait grows by one step. In between
   it stays, so that it settles below the goal instead of probing the point where the goal breaks again and again.

So the longest wait is reached `STEPS * PERIOD` batches after the first hundred pictures of a load that is worth it. It
is zero again after four periods without such a load, or once the goal was missed four times. If the goal is missed
without any wait, none is tried, though near the device's limit one might help.

Source: Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System", NSDI 2017, section 4.3: additive
increase and multiplicative decrease under a latency objective (there of the batch's size), and the delayed batching
that this tunes. Triton (`max_queue_delay_microseconds`) and TensorFlow Serving (`batch_timeout_micros`) leave the
number to their operators.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

WINDOW = 512
"""Pictures over which the 99th percentile is taken: five may be late, the sixth triggers a shorter wait."""

PERIOD = 32
"""Batches between two decisions."""

STEPS = 8
"""Steps from zero to the longest wait, half of the goal; the other half is for the end of decoding, the queue and
computing."""

_LATE_SHARE = 0.01
_LEAST_COUNTED = 100
"""With fewer pictures a single late one would be more than one in a hundred."""
_NEAR = 0.8
_BUSY = 0.5
_IDLE = 0.25
"""Shares of the lanes' time. Of two lanes for one device the second only keeps it fed, so one half means a busy
device."""
_LEAST_JOINED = 0.5


class BatchWait(Protocol):
    """Decides how long to wait, and learns from the outcome. Called under the batcher's lock."""

    @property
    def seconds(self) -> float:
        """Longest wait of a picture for others to fill its batch."""
        ...

    def waited(self, joined: int) -> None:
        """Records that a lane waited, and how many pictures joined in that time."""
        ...

    def served(self, begun: float, ended: float, since: Iterable[float]) -> None:
        """Records a batch.

        Args:
            begun: when a lane took it, on a monotonic clock.
            ended: when it was answered.
            since: when each of its pictures was submitted.
        """
        ...


class FixedWait:
    """A wait that is always the same."""

    def __init__(self, seconds: float) -> None:
        """Sets the wait."""
        self.seconds = seconds

    def waited(self, joined: int) -> None:
        """Does nothing."""

    def served(self, begun: float, ended: float, since: Iterable[float]) -> None:
        """Does nothing."""


class TunedWait:
    """A wait that adapts to the load, see above. It reads no clock and sorts nothing: cheap and deterministic."""

    def __init__(self, p99_goal_s: float, *, lanes: int) -> None:
        """Starts without a wait.

        Args:
            p99_goal_s: target for the 99th percentile of the time from a picture's submission to its answer.
            lanes: how many work at the same time.
        """
        self.longest_s = p99_goal_s / 2
        self._steps = 0.0
        self._goal_s = p99_goal_s
        self._near_s = _NEAR * p99_goal_s
        self._lanes = lanes
        self._recent: deque[float] = deque()
        self._late = 0
        self._near = 0
        self._counts_from = 0.0
        self._period_began: float | None = None
        self._batches = 0
        self._busy_s = 0.0
        self._waits = 0
        self._joined = 0

    @property
    def seconds(self) -> float:
        """See `BatchWait.seconds`."""
        return self._steps / STEPS * self.longest_s

    def waited(self, joined: int) -> None:
        """See `BatchWait.waited`."""
        self._waits += 1
        self._joined += joined

    def served(self, begun: float, ended: float, since: Iterable[float]) -> None:
        """See `BatchWait.served`."""
        for one in since:
            if one >= self._counts_from:
                self._count(ended - one)
        if self._late > _LATE_SHARE * WINDOW:
            self._shorten()
            self._forget(ended)
        if self._period_began is None:
            self._period_began = begun
        self._batches += 1
        self._busy_s += ended - begun
        if self._batches >= PERIOD:
            self._decide(self._busy_s / max(ended - self._period_began, 1e-9) / self._lanes)
            self._begin_period(ended)

    def _count(self, took_s: float) -> None:
        self._recent.append(took_s)
        self._late += took_s > self._goal_s
        self._near += took_s > self._near_s
        if len(self._recent) > WINDOW:
            gone_s = self._recent.popleft()
            self._late -= gone_s > self._goal_s
            self._near -= gone_s > self._near_s

    def _decide(self, busy: float) -> None:
        in_vain = self._waits > 0 and self._joined < _LEAST_JOINED * self._waits
        if busy < _IDLE or in_vain:
            self._shorten()
            return
        counted = len(self._recent)
        if busy >= _BUSY and counted >= _LEAST_COUNTED and self._near <= _LATE_SHARE * counted:
            self._steps = min(STEPS, self._steps + 1)

    def _shorten(self) -> None:
        self._steps = self._steps / 2 if self._steps >= 2 else 0.0

    def _forget(self, now: float) -> None:
        """Restarts counting and the period: everything before was served with another wait."""
        self._recent.clear()
        self._late = self._near = 0
        self._counts_from = now
        self._begin_period(now)

    def _begin_period(self, now: float) -> None:
        self._period_began = now
        self._batches = self._waits = self._joined = 0
        self._busy_s = 0.0
