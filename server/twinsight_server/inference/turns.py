"""Pictures queued for a model, and the turns in which they are served."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from prometheus_client import Counter

from twinsight_core.errors import Cancelled, DeadlineExceeded, TwinsightError
from twinsight_server.calls.call import Call

Answer = np.ndarray | TwinsightError
Infer = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray] | np.ndarray]

_PATIENCE_S = 1.0
_STREAM_PATIENCE_S = 10.0
"""A stream's picture goes behind those of unary calls that arrived up to nine seconds after it."""


@dataclass(frozen=True, order=True)
class Waiting:
    """A picture in the queue, ordered by when it is due and, among those due at the same time, by arrival."""

    URGENT: ClassVar[float] = -math.inf
    """The `due` that goes ahead of all others."""

    due: float
    number: int
    load: Callable[[], np.ndarray] = field(compare=False)
    call: Call = field(compare=False)
    future: Future[Answer] = field(compare=False)
    since: float = field(compare=False)

    @property
    def is_urgent(self) -> bool:
        """Whether it is the test picture behind health, which goes ahead of all others, in its own batch."""
        return self.due == self.URGENT


@dataclass
class Turn:
    """The batch that a thread is serving.

    Attributes:
        lane: the lane's number; None: a caller's thread.
        batch: the pictures.
        begun: when it began.
        computing: since when the model computes it; None: it does not.
        looks: how often the watchdog has found the model computing it.
    """

    lane: int | None
    batch: Sequence[Waiting]
    begun: float
    computing: float | None = None
    looks: int = 0

    def computed(self, infer: Infer, images: Sequence[np.ndarray]) -> Sequence[np.ndarray] | np.ndarray:
        """Runs the model on pictures. Only this time counts as hanging, not for example the time for logging."""
        self.looks, self.computing = 0, time.monotonic()
        try:
            return infer(images)
        finally:
            self.computing = None


def answer(future: Future[Answer], with_: Answer) -> None:
    """Gives a picture its answer or its own error, unless it has one because its turn was given up."""
    with suppress(InvalidStateError):
        future.set_result(with_)


def fail(future: Future[Answer], error: Exception) -> None:
    """Fails a picture because its call or its computation failed; does nothing if it has an answer."""
    with suppress(InvalidStateError):
        future.set_exception(error)


def is_wanted(one: Waiting, dropped: Counter) -> bool:
    """Returns whether somebody waits for a picture's answer; otherwise fails its future and counts it as dropped."""
    try:
        one.call.check_alive()
    except TwinsightError as error:
        dropped.inc()
        fail(one.future, error)
        return False
    return True


def loaded(one: Waiting, dropped: Counter) -> np.ndarray | None:
    """Returns a picture's pixels; None if nobody waits for it or it can't be loaded, which its future then says."""
    if not is_wanted(one, dropped):
        return None
    start = time.monotonic()
    try:
        image = one.load()
    except (Cancelled, DeadlineExceeded) as error:
        dropped.inc()
        fail(one.future, error)
        return None
    except TwinsightError as error:
        answer(one.future, error)
        return None
    except Exception as error:  # noqa: BLE001 - this picture's alone
        fail(one.future, error)
        return None
    now = time.monotonic()
    one.call.record("decode", now - start)
    one.call.record("queue", start - one.since)
    return image


def due_of(call: Call) -> float:
    """Returns when a call's answer is due, on `time.monotonic`'s scale: at its deadline or the end of its patience."""
    patience_s = _STREAM_PATIENCE_S if call.is_patient else _PATIENCE_S
    return time.monotonic() + min(patience_s, call.remaining_s() or patience_s)
