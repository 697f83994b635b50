"""When a call is retried.

Which calls:

- Reads, and UpsertItems, which writes the same content under the same ids: these may safely happen twice.
- CreateCollection, DeleteCollection and DeleteItems only if the server rejected the call before doing anything, that is
  with RESOURCE_EXHAUSTED and a time, or had no place for it on the connection. Otherwise a second try could fail with
  ALREADY_EXISTS or NOT_FOUND because of the first, and DeleteItems by filter could delete items written in between.
- Never streams, which a caller resumes by `ingest_id`, and never health checks.

Which errors: UNAVAILABLE, and RESOURCE_EXHAUSTED if the server names a time (RetryInfo) or did not read the call;
otherwise the message is too large and stays so. A server that names a time is alive but busy, so the call is retried
until its deadline: a program may submit a thousand calls at once. Waits grow from try to try, and are jittered so that
clients rejected together do not return together. They never outlast the call's deadline: the error is raised at once if
the next wait would.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from twinsight_client.errors import ResourceExhausted, TwinsightClientError, Unavailable


class Repeat(Enum):
    """Whether a call may be retried."""

    NEVER = "never"
    WHEN_REFUSED = "when_refused"
    """Only if nothing was done: the server rejected the call for load."""
    WHEN_SAFE = "when_safe"
    UNTIL_DEADLINE = "until_deadline"
    """As often as it takes: for calls that wait for a server to start."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often to retry, and after which waits.

    Attributes:
        attempts: tries in all, not counting those rejected for load with a time; 1 turns retries off.
        first_wait_s: wait before the second try; doubles from try to try.
        longest_wait_s: limit of the doubling.
    """

    attempts: int = 4
    first_wait_s: float = 0.1
    longest_wait_s: float = 3.0


class Attempts:
    """The tries of one call.

    Args:
        policy: how often to retry, and after which waits.
        repeat: whether this call may be retried.
        timeout_s: seconds the call has from now, including waits.
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
        """Returns the seconds until the call's deadline, at least 0."""
        return max(0.0, self._deadline - self._clock())

    def wait_after_s(self, error: TwinsightClientError) -> float | None:
        """Counts a failed try; returns how long to wait before the next, or None to give up."""
        self._made += 1
        asked_s = error.retry_after_s if isinstance(error, ResourceExhausted) else None
        self._counted += asked_s is None
        if not self._may_help(error, refused=asked_s is not None):
            return None
        # Capped: 2.0 ** 1024 overflows, and a busy server may be asked that often.
        growth = self._policy.first_wait_s * 2.0 ** min(self._made - 1, 16)
        wait_s = (asked_s or 0.0) + min(self._policy.longest_wait_s, growth) * (0.5 + self._jitter() / 2)
        return wait_s if wait_s < self.remaining_s() else None

    def _may_help(self, error: TwinsightClientError, *, refused: bool) -> bool:
        """Whether another try is allowed and may succeed; `refused`: for load, with a time to retry."""
        if self._repeat is Repeat.UNTIL_DEADLINE:
            return refused or isinstance(error, Unavailable)
        if self._repeat is Repeat.NEVER or self._policy.attempts == 1:
            return False
        if refused:
            return True
        allowed = self._repeat is Repeat.WHEN_SAFE and isinstance(error, Unavailable)
        return allowed and self._counted < self._policy.attempts
