"""How long calls may take: deadlines by kind of call, and what a caller may ask for instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twinsight_client import answers
from twinsight_client.errors import DeadlineExceeded, FieldViolation, InvalidArgument, ResourceExhausted, Unavailable

INFERENCE_S = 60.0
"""Deadline of calls that run a model: 256 pictures take a small machine many seconds."""
SEARCH_S = 30.0
WRITE_S = 60.0
PURGE_S = 600.0
"""A purge rewrites the collection's file."""
MANAGE_S = 10.0
_LONGEST_S = 1e8
"""Three years."""


def checked_timeout(timeout_s: float) -> float:
    """Returns a timeout that gRPC can count: it takes longer ones than some centuries for times that have passed.

    Raises:
        InvalidArgument: it is negative or not a number.
    """
    if not timeout_s >= 0:
        message = f"`timeout_s` (={timeout_s}) must be at least 0."
        raise InvalidArgument(message, reason="CLIENT_CHECK", violations=[FieldViolation("timeout_s", message)])
    return min(timeout_s, _LONGEST_S)


def stream_timeout(timeout_s: float | None) -> float | None:
    """As `checked_timeout`; None: no deadline."""
    return None if timeout_s is None else checked_timeout(timeout_s)


@contextmanager
def waiting(timeout_s: float) -> Iterator[None]:
    """Turns the error of the last try into that of the whole wait of `timeout_s` seconds.

    Raises:
        Unavailable: the server is not serving within that time.
    """
    try:
        yield
    except (DeadlineExceeded, ResourceExhausted) as error:
        message = f"The server is not serving after {timeout_s:g} s."
        raise Unavailable(message, reason=answers.NOT_SERVING, request_id=error.request_id) from None
