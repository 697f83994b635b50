"""Pictures that wait for a model, and the turns in which they are served."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from twinsight_core.errors import TwinsightError
from twinsight_server.calls import Call

Answer = np.ndarray | TwinsightError

_PATIENCE_S = 1.0
_STREAM_PATIENCE_S = 10.0
"""A stream's picture goes behind those of unary calls that came up to nine seconds after it."""


@dataclass(frozen=True, order=True)
class Waiting:
    """A picture in the queue, ordered by when it is due and, among those due together, by when it came."""

    due: float
    number: int
    load: Callable[[], np.ndarray] = field(compare=False)
    call: Call = field(compare=False)
    future: Future[Answer] = field(compare=False)
    since: float = field(compare=False)


@dataclass
class Turn:
    """What a thread is at.

    Attributes:
        lane: its number; None: a caller's thread.
        batch: the pictures.
        begun: when it began.
        computing: since when the model has it; None: it does not.
        looks: how often the watchdog has found the model at it.
    """

    lane: int | None
    batch: Sequence[Waiting]
    begun: float
    computing: float | None = None
    looks: int = 0


def answer(future: Future[Answer], with_: Answer) -> None:
    """Gives a picture its answer or the error that is its own, unless its turn was given up and it has one."""
    with suppress(InvalidStateError):
        future.set_result(with_)


def fail(future: Future[Answer], error: Exception) -> None:
    """Says that a picture's call has failed, or computing it; does nothing where it has an answer."""
    with suppress(InvalidStateError):
        future.set_exception(error)


def due_of(call: Call) -> float:
    """Returns when a call wants its answer, on `time.monotonic`'s scale: at its deadline, or when its patience ends."""
    patience_s = _STREAM_PATIENCE_S if call.is_patient else _PATIENCE_S
    return time.monotonic() + min(patience_s, call.remaining_s() or patience_s)
