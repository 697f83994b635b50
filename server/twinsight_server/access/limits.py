"""How much callers may have: rates by token buckets, and a share of the places.

A bucket fills by its rate and holds one second's worth, at least one. What finds enough in it, or finds it full where
it asks for more than it holds, is let through and takes all it asks for: a large call leaves a debt that the next ones
wait for, so that over time the rate holds whatever the sizes are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from twinsight_core.errors import Overloaded
from twinsight_server.access.principals import Principal, Share

_LEAST_SWEEP = 1024
"""Callers that are remembered before those that are gone are looked for."""

_LEAST_WAIT_S = 0.001
_ROUNDING = 1e-6


class Bucket:
    """Things that may be had at a rate. Used under a lock.

    Args:
        rate: things a second.
        now: seconds, from any start.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate)
        self._held = self._capacity
        self._at = now

    def take_over(self, other: Bucket, now: float) -> None:
        """Begins with what another holds, a debt too, instead of full: a caller's rate changed."""
        other._fill(now)
        self._held = min(self._capacity, other._held)

    def wait_s(self, count: int, now: float) -> float:
        """Returns after how many seconds `count` can be taken; 0: now."""
        self._fill(now)
        short = min(count, self._capacity) - self._held
        # Who waited for exactly as long as was said must find enough, whatever the sums of floats are.
        return 0.0 if short <= _ROUNDING else short / self._rate

    def take(self, count: int) -> None:
        """Takes `count`, for which `wait_s` was 0."""
        self._held -= count

    def is_full(self, now: float) -> bool:
        """Whether it would be the same if it were made anew."""
        self._fill(now)
        return self._held >= self._capacity

    def _fill(self, now: float) -> None:
        self._held = min(self._capacity, self._held + max(0.0, now - self._at) * self._rate)
        self._at = now


@dataclass(frozen=True)
class Refusal:
    """Why somebody has to wait.

    Attributes:
        reason: names the limit, for programs.
        message: names it with its value, for people.
        wait_s: seconds after which another try may go through.
    """

    reason: str
    message: str
    wait_s: float

    def error(self) -> Overloaded:
        """Returns it as the error of a call that does not wait."""
        return Overloaded(f"{self.message}; try again later.", retry_after_s=self.wait_s, reason=self.reason)


class Limiter:
    """Lets callers have their share, and all together the server's. May be used from any thread."""

    def __init__(
        self,
        server: Share,
        each: Share,
        *,
        most_items: int | None = None,
        place_wait_s: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the limits.

        Args:
            server: rates of all callers together; its places are the gate's.
            each: share of a caller whose key has none of its own.
            most_items: things that a call may have. One that has more is refused further in, and counts as one of so
                many: what others wait for must not be as large as anybody likes. None: as many as it has.
            place_wait_s: after which to try again where a caller has all its places.
            clock: monotonic seconds.
        """
        self._each = each
        self._most_items = most_items
        self._place_wait_s = place_wait_s
        self._clock = clock
        self._changed = threading.Condition()
        self._all = _Rates(server, "SERVER", "All callers together may", clock())
        self._none_by_default = each.over(_UNLIMITED) == _UNLIMITED and not self._all
        self._states: dict[tuple[str, str], _State] = {}
        self._sweep_at = _LEAST_SWEEP

    def enter(self, caller: Principal, items: int) -> Refusal | None:
        """Takes a place for a call, or a message of a stream, and counts it; returns why not, where it has to wait.

        Args:
            caller: whose it is.
            items: things in it.
        """
        if self._is_free(caller):
            return None
        share = caller.share.over(self._each)
        items = items if self._most_items is None else min(items, self._most_items)
        with self._changed:
            now = self._clock()
            state = self._state(caller, share, now)
            if share.max_calls and state.calls >= share.max_calls:
                return self._full("KEY_CALLS_FULL", f"A caller may have {share.max_calls} calls in work at once")
            refusals = [*state.rates.refusals(items, now), *self._all.refusals(items, now)]
            if refusals:
                return max(refusals, key=lambda one: one.wait_s)
            state.rates.take(items)
            self._all.take(items)
            state.calls += 1
        return None

    def leave(self, caller: Principal, *, owed: int = 0) -> None:
        """Gives back the place that `enter` took.

        Args:
            caller: who leaves.
            owed: things beyond those in the call that count, too; the next calls wait for them.
        """
        self._release(caller, calls=1, streams=0, owed=owed)

    def enter_stream(self, caller: Principal) -> Refusal | None:
        """Takes a place for a stream; returns why not, where there is none."""
        if self._is_free(caller):
            return None
        share = caller.share.over(self._each)
        with self._changed:
            state = self._state(caller, share, self._clock())
            if share.max_streams and state.streams >= share.max_streams:
                return self._full("KEY_STREAMS_FULL", f"A caller may have {share.max_streams} streams open at once")
            state.streams += 1
        return None

    def leave_stream(self, caller: Principal) -> None:
        """Gives back what `enter_stream` took."""
        self._release(caller, calls=0, streams=1)

    def pause(self, seconds: float) -> None:
        """Waits, until somebody's place is free at the longest."""
        with self._changed:
            self._changed.wait(seconds)

    def _release(self, caller: Principal, *, calls: int, streams: int, owed: int = 0) -> None:
        if self._is_free(caller):
            return
        with self._changed:
            state = self._states[caller.kind, caller.name]
            state.calls -= calls
            state.streams -= streams
            for rates in (state.rates, self._all):
                rates.owe(owed)
            self._changed.notify_all()

    def _is_free(self, caller: Principal) -> bool:
        """Whether nothing limits a caller: then nothing is kept of it either."""
        return self._none_by_default and caller.share == _OPEN

    def _full(self, reason: str, message: str) -> Refusal:
        return Refusal(reason, message, self._place_wait_s)

    def _state(self, caller: Principal, share: Share, now: float) -> _State:
        name = (caller.kind, caller.name)
        state = self._states.get(name)
        if state is None:
            if len(self._states) >= self._sweep_at:
                self._sweep(now)
            state = self._states[name] = _State(share, _rates(share, now))
        elif state.share != share:
            rates = _rates(share, now)
            rates.take_over(state.rates, now)
            state.share, state.rates = share, rates
        return state

    def _sweep(self, now: float) -> None:
        """Forgets callers who would be the same as new ones: subjects of JWTs are without number."""
        self._states = {name: state for name, state in self._states.items() if not state.is_as_new(now)}
        self._sweep_at = max(_LEAST_SWEEP, 2 * len(self._states))


class _Rates:
    """The buckets of one caller, or of all."""

    def __init__(self, share: Share, prefix: str, who: str, now: float) -> None:
        rates = (("CALL_RATE", "calls", share.calls_per_s), ("ITEM_RATE", "items", share.items_per_s))
        self._buckets = {
            what: (Bucket(rate, now), f"{prefix}_{name}", f"{who} send {rate:g} {what} a second")
            for name, what, rate in rates
            if rate
        }

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def take_over(self, before: _Rates, now: float) -> None:
        """Begins with what the buckets of before hold: two tokens of one caller may name different shares."""
        for what, (bucket, _, _) in self._buckets.items():
            if what in before._buckets:
                bucket.take_over(before._buckets[what][0], now)

    def refusals(self, items: int, now: float) -> Iterator[Refusal]:
        """Yields what has to be waited for."""
        for what, (bucket, reason, message) in self._buckets.items():
            count = _count(what, items)
            if count and (wait_s := bucket.wait_s(count, now)) > 0:
                yield Refusal(reason, message, max(_LEAST_WAIT_S, wait_s))

    def take(self, items: int) -> None:
        """Counts one call with some items."""
        for what, (bucket, _, _) in self._buckets.items():
            bucket.take(_count(what, items))

    def owe(self, items: int) -> None:
        """Counts items of a call that was counted."""
        if "items" in self._buckets:
            self._buckets["items"][0].take(items)

    def are_full(self, now: float) -> bool:
        """Whether they would be the same if they were made anew."""
        return all(bucket.is_full(now) for bucket, _, _ in self._buckets.values())


@dataclass
class _State:
    """What a caller has at the moment."""

    share: Share
    rates: _Rates
    calls: int = 0
    streams: int = 0

    def is_as_new(self, now: float) -> bool:
        return not self.calls and not self.streams and self.rates.are_full(now)


_UNLIMITED, _OPEN = Share(0, 0, 0, 0, 0), Share()


def _rates(share: Share, now: float) -> _Rates:
    return _Rates(share, "KEY", "A caller may", now)


def _count(what: str, items: int) -> int:
    return 1 if what == "calls" else items
