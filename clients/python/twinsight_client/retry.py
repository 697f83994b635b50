"""When a call is sent again.

Only what may safely happen twice: reads, and UpsertItems, which writes the same content under the same ids.
CreateCollection and DeleteCollection (whose second try would answer ALREADY_EXISTS or NOT_FOUND about the first) and
DeleteItems (likewise, and by filter it could take items written in between) only where the server turned the call away
before anything was done: RESOURCE_EXHAUSTED with a time. Never streams (which a caller resumes by `ingest_id`) and
questions about health.

Only where another try can help: UNAVAILABLE, and RESOURCE_EXHAUSTED where the server names a time (RetryInfo); without
one the message is too large and stays so. Whoever is refused with a time has found a server that lives and has much to
do: it is asked again until the deadline, so that a program may hand in a thousand calls at once. Waits grow from try to
try, are jittered so that clients refused together do not come back together, and end with the call's deadline: an error
is raised at once when the wait would outlast it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from twinsight_client.errors import ResourceExhausted, TwinsightClientError, Unavailable


class Repeat(Enum):
    """Whether a call may be sent again."""

    NEVER = "never"
    WHEN_REFUSED = "when_refused"
    """Where nothing was done: the server refused for load and named a time."""
    WHEN_SAFE = "when_safe"
    UNTIL_DEADLINE = "until_deadline"
    """As often as it takes, for calls that wait for a server to come up."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and after which waits.

    Attributes:
        attempts: tries in all, those not counted that a server refused for load and named a time; 1 turns retries off.
        first_wait_s: before the second try; doubles from try to try.
        longest_wait_s: where the doubling ends.
    """

    attempts: int = 4
    first_wait_s: float = 0.1
    longest_wait_s: float = 3.0


class Attempts:
    """The tries of one call.

    Args:
        policy: how often and after which waits.
        repeat: whether this call may be sent again.
        timeout_s: seconds the call has from now, waits included.
        clock: monotonic seconds.
        jitter: a number in [0, 1).
    """

    def __init__(
        self,
        policy: RetryPolicy,
        repeat: Repeat,
        *,
        timeout_s: float,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._repeat = repeat
        self._clock = clock
        self._jitter = jitter
        self._deadline = clock() + timeout_s
        self._made = 0
        self._counted = 0

    def remaining_s(self) -> float:
        """Seconds until the call's deadline, at least 0."""
        return max(0.0, self._deadline - self._clock())

    def wait_after_s(self, error: TwinsightClientError) -> float | None:
        """Counts a failed try; returns how long to wait before the next, or None to give up."""
        self._made += 1
        asked_s = error.retry_after_s if isinstance(error, ResourceExhausted) else None
        self._counted += asked_s is None
        if not self._may_help(error, refused=asked_s is not None):
            return None
        # The exponent is capped: a wait of hours would overflow nothing but sense.
        growth = self._policy.first_wait_s * 2.0 ** min(self._made - 1, 16)
        wait_s = (asked_s or 0.0) + min(self._policy.longest_wait_s, growth) * (0.5 + self._jitter() / 2)
        return wait_s if wait_s < self.remaining_s() else None

    def _may_help(self, error: TwinsightClientError, *, refused: bool) -> bool:
        """Whether another try is allowed, and of use; `refused`: for load, with a time to come again."""
        if self._repeat is Repeat.UNTIL_DEADLINE:
            return refused or isinstance(error, Unavailable)
        if self._repeat is Repeat.NEVER or self._policy.attempts == 1:
            return False
        if refused:
            return True
        allowed = self._repeat is Repeat.WHEN_SAFE and isinstance(error, Unavailable)
        return allowed and self._counted < self._policy.attempts
