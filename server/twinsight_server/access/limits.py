"""Limits what callers may use: rates by token buckets, and shares of concurrent calls and streams.

A bucket fills at its rate and holds one second's worth, at least one token. A request passes if the bucket has a token,
and takes all it needs. A large one thus leaves a debt that the next ones wait for, so that over time the rate holds
whatever the sizes are. If it had to wait until the bucket has all its tokens, it might wait for ever beside small ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from twinsight_core.errors import Overloaded
from twinsight_server.access.principals import Principal, Share

_LEAST_SWEEP = 1024
"""Number of remembered callers at which those that have gone are first removed."""

_LEAST_WAIT_S = 0.001
_ROUNDING = 1e-6


class Bucket:
    """A token bucket. Must be used under a lock.

    Args:
        rate: tokens per second.
        now: monotonic seconds.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate)
        self._held = self._capacity
        self._at = now

    def take_over(self, other: Bucket, now: float) -> None:
        """Takes over the tokens or the debt of another bucket instead of starting full: the caller's rate changed."""
        other._fill(now)
        self._held = min(self._capacity, other._held)

    def wait_s(self, now: float) -> float:
        """Returns the seconds until something can be taken; 0: now."""
        self._fill(now)
        short = 1.0 - self._held
        # A caller that waits exactly this long must find enough, despite float rounding.
        return 0.0 if short <= _ROUNDING else short / self._rate

    def take(self, count: int) -> None:
        """Takes `count` tokens, more than there are if need be; `wait_s` must have returned 0."""
        self._held -= count

    def is_full(self, now: float) -> bool:
        """Whether it is full, like a new one."""
        self._fill(now)
        return self._held >= self._capacity

    def _fill(self, now: float) -> None:
        self._held = min(self._capacity, self._held + max(0.0, now - self._at) * self._rate)
        self._at = now


@dataclass(frozen=True)
class Refusal:
    """Why a caller has to wait.

    Attributes:
        reason: identifies the limit, for programs.
        message: names the limit and its value, for humans.
        wait_s: seconds after which a retry may succeed.
    """

    reason: str
    message: str
    wait_s: float

    def error(self) -> Overloaded:
        """Returns it as the error of a call that does not wait."""
        message = f"{self.message}; retry after {self.wait_s:.3f} s."
        return Overloaded(message, retry_after_s=self.wait_s, reason=self.reason)


class Limiter:
    """Limits each caller to its share, and all together to the server's. May be used from any thread."""

    def __init__(
        self,
        server: Share,
        each: Share,
        *,
        most_items: int | None = None,
        place_wait_s: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Sets the limits.

        Args:
            server: rates of all callers together; the gate limits their concurrent calls and streams.
            each: share of a caller whose key has none of its own.
            most_items: items that a call may have. A call with more is rejected later, and counts with this many here:
                one caller must not make others wait arbitrarily long. None: no limit.
            place_wait_s: when to retry if a caller has reached its concurrent calls or streams.
            clock: monotonic seconds.
        """
        self._each = each
        self._most_items = most_items
        self._place_wait_s = place_wait_s
        self._clock = clock
        self._changed = threading.Condition()
        self._all = _Rates(server, "SERVER", "for all callers", clock())
        self._none_by_default = each.over(_UNLIMITED) == _UNLIMITED and not self._all
        self._states: dict[tuple[str, str], _State] = {}
        self._sweep_at = _LEAST_SWEEP

    def enter(self, caller: Principal, items: int) -> Refusal | None:
        """Admits and counts a call or a stream message; returns a refusal if it has to wait.

        Args:
            caller: who sent it.
            items: number of items in it.
        """
        if self._is_free(caller):
            return None
        share = caller.share.over(self._each)
        items = items if self._most_items is None else min(items, self._most_items)
        with self._changed:
            now = self._clock()
            state = self._state(caller, share, now)
            if share.max_calls and state.calls >= share.max_calls:
                message = f"Too many concurrent calls (limit {share.max_calls} for this caller)"
                return self._full("KEY_CALLS_FULL", message)
            refusals = [*state.rates.refusals(items, now), *self._all.refusals(items, now)]
            if refusals:
                return max(refusals, key=lambda one: one.wait_s)
            state.rates.take(items)
            self._all.take(items)
            state.calls += 1
        return None

    def leave(self, caller: Principal, *, owed: int = 0) -> None:
        """Ends what `enter` admitted.

        Args:
            caller: who sent it.
            owed: items beyond those in the call that count too; the next calls wait for them.
        """
        self._release(caller, calls=1, streams=0, owed=owed)

    def enter_stream(self, caller: Principal) -> Refusal | None:
        """Admits a stream; returns a refusal if the caller has too many."""
        if self._is_free(caller):
            return None
        share = caller.share.over(self._each)
        with self._changed:
            state = self._state(caller, share, self._clock())
            if share.max_streams and state.streams >= share.max_streams:
                message = f"Too many open streams (limit {share.max_streams} for this caller)"
                return self._full("KEY_STREAMS_FULL", message)
            state.streams += 1
        return None

    def leave_stream(self, caller: Principal) -> None:
        """Ends what `enter_stream` admitted."""
        self._release(caller, calls=0, streams=1)

    def pause(self, seconds: float) -> None:
        """Waits for some seconds, or less if a call or stream ends."""
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
        """Whether nothing limits a caller; no state is kept for it then."""
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
        """Forgets callers whose state equals that of new ones: the subjects of JWTs are unlimited."""
        self._states = {name: state for name, state in self._states.items() if not state.is_as_new(now)}
        self._sweep_at = max(_LEAST_SWEEP, 2 * len(self._states))


class _Rates:
    """The buckets of one caller, or of all callers together."""

    def __init__(self, share: Share, prefix: str, who: str, now: float) -> None:
        rates = (("CALL_RATE", "calls", share.calls_per_s), ("ITEM_RATE", "items", share.items_per_s))
        self._buckets = {
            what: (Bucket(rate, now), f"{prefix}_{name}", f"Too many {what} (limit {rate:g} per second {who})")
            for name, what, rate in rates
            if rate
        }

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def take_over(self, before: _Rates, now: float) -> None:
        """Takes over what earlier buckets hold: two tokens of one caller may name different shares."""
        for what, (bucket, _, _) in self._buckets.items():
            if what in before._buckets:
                bucket.take_over(before._buckets[what][0], now)

    def refusals(self, items: int, now: float) -> Iterator[Refusal]:
        """Yields a refusal for each limit that has to be waited for."""
        for what, (bucket, reason, message) in self._buckets.items():
            if _count(what, items) and (wait_s := bucket.wait_s(now)) > 0:
                yield Refusal(reason, message, max(_LEAST_WAIT_S, wait_s))

    def take(self, items: int) -> None:
        """Counts one call and its items."""
        for what, (bucket, _, _) in self._buckets.items():
            bucket.take(_count(what, items))

    def owe(self, items: int) -> None:
        """Counts further items of a call that was counted before."""
        if "items" in self._buckets:
            self._buckets["items"][0].take(items)

    def are_full(self, now: float) -> bool:
        """Whether all are full, like new ones."""
        return all(bucket.is_full(now) for bucket, _, _ in self._buckets.values())


@dataclass
class _State:
    """What a caller uses at the moment."""

    share: Share
    rates: _Rates
    calls: int = 0
    streams: int = 0

    def is_as_new(self, now: float) -> bool:
        return not self.calls and not self.streams and self.rates.are_full(now)


_UNLIMITED, _OPEN = Share(0, 0, 0, 0, 0), Share()


def _rates(share: Share, now: float) -> _Rates:
    return _Rates(share, "KEY", "for this caller", now)


def _count(what: str, items: int) -> int:
    return 1 if what == "calls" else items
