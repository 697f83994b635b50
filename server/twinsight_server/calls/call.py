"""A call as its stages see it: caller, id, deadline, times.

Servicers open the call themselves (`with gate.call(context, "Embed") as call`, see `gate`) instead of leaving that to
an interceptor: so they hold a typed `Call`, and unary calls and stream messages take the same path.
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
"""How late a waiting message may notice that its caller has gone or that the server drains."""


class Call:
    """One call, or one message of a stream: its caller, id, deadline and the times of its stages."""

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
            request_id: identifies the call in logs and responses.
            deadline: on `time.monotonic`'s scale; None: none.
            check_waiting: raises when the call must stop waiting for room. None: the call does not wait, it is
                rejected at once.
            metadata: as received, including the caller's token: must never be logged or returned.
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
        self._message_started: float | None = None
        self._earlier: tuple[dict[str, float], Counter[str]] = ({}, Counter())
        self.outcomes: Counter[str] = Counter()
        """Results by outcome; while a message of a stream is processed: its own."""
        self.effect = Effect()
        """For the audit log; of a stream: that of its current message."""
        self.touched = 0
        """Stored items that it returned or deleted; any beyond the number it sent also count towards the caller's
        rate."""
        self.cut_off: Callable[[], object] | None = None
        """Ends the call for its caller, who sees CANCELLED, when the thread working on it can't be stopped."""

    def cancel(self) -> None:
        """Records that the caller has gone; work for it stops at the next check."""
        self._gone = True

    def check_alive(self) -> None:
        """Checks that somebody still waits for the response.

        Raises:
            Cancelled: the caller has gone.
            DeadlineExceeded: its deadline has passed.
        """
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise deadline_exceeded()
        if self._gone:
            raise Cancelled("The caller is gone.", reason="CANCELLED")

    @property
    def is_patient(self) -> bool:
        """Whether it waits when there is no room: a message of a stream does, a unary call does not."""
        return self._check_waiting is not None

    def remaining_s(self) -> float | None:
        """Returns the seconds until the deadline, at least 0; None: there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def patience_s(self) -> float | None:
        """Returns how many seconds to wait before trying again; None: the call does not wait, it is rejected.

        Raises:
            Cancelled, DeadlineExceeded: nobody waits for the response any more.
            Unavailable: the server drains.
        """
        if self._check_waiting is None:
            return None
        self.check_alive()
        self._check_waiting()
        remaining_s = self.remaining_s()
        return _WAIT_STEP_S if remaining_s is None else min(_WAIT_STEP_S, remaining_s)

    def record(self, stage: str, seconds: float) -> None:
        """Records a stage's time; for a call with several images, the longest."""
        self._stages[stage] = max(self._stages.get(stage, 0.0), seconds)

    def count(self, results: Sequence[object]) -> None:
        """Counts the call's results by outcome: OK, or the status code of a TwinsightError, which is to be sent."""
        errors = [one for one in results if isinstance(one, TwinsightError)]
        for error in errors:
            drop_tracebacks(error)
        self.effect.failed += len(errors)
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
        """Returns the seconds of each stage so far, and `total`; while a message of a stream is processed: its own."""
        started = self.started if self._message_started is None else self._message_started
        return {**self._stages, "total": time.monotonic() - started}

    def begin_message(self) -> None:
        """Starts the clock of a message of a stream; until `end_message`, stages and outcomes are recorded for it."""
        self._earlier = self._stages, self.outcomes
        self._stages, self.outcomes, self._message_started = {}, Counter(), time.monotonic()

    def end_message(self) -> None:
        """Adds the message's outcomes to the stream's, and its times where they are the longest of a stage."""
        message, outcomes = self._stages, self.outcomes
        self._stages, self.outcomes = self._earlier
        self._message_started, self.effect = None, Effect()
        self.outcomes.update(outcomes)
        for stage, seconds in message.items():
            self.record(stage, seconds)


def drop_tracebacks(error: BaseException) -> None:
    """Drops the tracebacks of an error that was caught for good, and of those that it came from.

    They lead to frames that hold the error: its results, and from Python 3.12 on contextlib. Such a cycle would keep
    the call, and its place in the connection, until the next garbage collection.
    """
    last: BaseException | None = error
    while last is not None:
        last.__traceback__ = None
        last = last.__cause__ or last.__context__


def deadline_exceeded() -> DeadlineExceeded:
    """Returns the error of a call whose deadline has passed."""
    return DeadlineExceeded("The call's deadline passed before the work was done.", reason="DEADLINE_EXCEEDED")
