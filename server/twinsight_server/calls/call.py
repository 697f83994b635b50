"""A call as its stages see it: whose it is, its id, its deadline, the times it took.

Servicers open the call themselves (`with gate.call(context, "Embed") as call`, see `gate`) instead of an interceptor
doing it for them: so they hold a typed `Call`, and unary calls and the messages of a stream go the same way.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from twinsight_core.errors import Cancelled, DeadlineExceeded, TwinsightError
from twinsight_server.access.audit import Effect
from twinsight_server.access.guard import Metadata
from twinsight_server.access.principals import NOBODY
from twinsight_server.status import code_of

_WAIT_STEP_S = 0.1
"""How late a waiting message may notice that its caller is gone or that the server drains."""


class Call:
    """One call, or one message of a stream: whose it is, its id, its deadline and the times of its stages."""

    def __init__(
        self,
        request_id: str,
        deadline: float | None,
        *,
        check_waiting: Callable[[], None] | None = None,
        metadata: Metadata = (),
    ) -> None:
        """Starts the clock.

        Args:
            request_id: names the call in logs and answers.
            deadline: on `time.monotonic`'s scale; None: none.
            check_waiting: of a call that waits where there is no room: raises once it must not go on waiting. None: it
                is refused at once.
            metadata: as they came, the caller's token among them: never to be shown.
        """
        self.request_id = request_id
        self.metadata = metadata
        self.peer = ""
        self.caller = NOBODY
        self.started = time.monotonic()
        self._deadline = deadline
        self._check_waiting = check_waiting
        self._gone = False
        self._stages: dict[str, float] = {}
        self.outcomes: Counter[str] = Counter()
        self.effect = Effect()
        """For the audit log; of a stream: of the message that is in work."""
        self.touched = 0
        """Stored items that it was given, or deleted; they count as the caller's where they are more than it sent."""
        self.cut_off: Callable[[], object] | None = None
        """Ends the call towards its caller, who sees CANCELLED, where the thread that works on it can't be ended."""

    def cancel(self) -> None:
        """The caller is gone; work for it stops at the next check."""
        self._gone = True

    def check_alive(self) -> None:
        """Raises when nobody waits for the answer any more.

        Raises:
            Cancelled: the caller is gone.
            DeadlineExceeded: its time is over.
        """
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise deadline_exceeded()
        if self._gone:
            raise Cancelled("The caller is gone.", reason="CANCELLED")

    @property
    def is_patient(self) -> bool:
        """Whether it waits where there is no room: a message of a stream does, a unary call does not."""
        return self._check_waiting is not None

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, at least 0; None: there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def patience_s(self) -> float | None:
        """Seconds for which to wait, before asking again, for what is taken; None: the call is refused instead.

        Raises:
            Cancelled, DeadlineExceeded: nobody waits for the answer any more.
            Unavailable: the server drains.
        """
        if self._check_waiting is None:
            return None
        self.check_alive()
        self._check_waiting()
        remaining_s = self.remaining_s()
        return _WAIT_STEP_S if remaining_s is None else min(_WAIT_STEP_S, remaining_s)

    def record(self, stage: str, seconds: float) -> None:
        """Notes a stage's time. Of several pictures in a call the longest counts."""
        self._stages[stage] = max(self._stages.get(stage, 0.0), seconds)

    def count(self, results: Sequence[object]) -> None:
        """Counts the items of the call by what became of them: OK, or the status code of a TwinsightError."""
        self.effect.failed += sum(isinstance(one, TwinsightError) for one in results)
        self.outcomes.update(code_of(one).name if isinstance(one, TwinsightError) else "OK" for one in results)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.record(name, time.monotonic() - start)

    def stages(self) -> dict[str, float]:
        """Seconds of each stage so far, and `total`."""
        return {**self._stages, "total": time.monotonic() - self.started}


def deadline_exceeded() -> DeadlineExceeded:
    """Returns the error of a call whose time is over."""
    return DeadlineExceeded("The call's deadline passed before the work was done.", reason="DEADLINE_EXCEEDED")
