"""The outcome of a call as a number: gRPC's status code, or one of two outcomes that gRPC does not distinguish.

A call refused for load is what a load test looks for, not a fault, so it is counted separately from errors.
"""

from __future__ import annotations

import grpc

from twinsight_client.errors import ResourceExhausted, TwinsightClientError
from twinsight_client.status import is_too_large

ANSWERED = 0
"""The call as a whole succeeded; single items of it may have failed."""
REFUSED = -1
"""The server refused it for load."""
UNANSWERED = -2
"""The run was interrupted while the call was in flight."""

_NUMBERS: dict[str, int] = {code.name: code.value[0] for code in grpc.StatusCode}
_NAMES = {number: name for name, number in _NUMBERS.items()}


def outcome_of(error: TwinsightClientError) -> int:
    """Returns the outcome of a call that ended with `error`."""
    if isinstance(error, ResourceExhausted):
        # A reason without a time to retry does not mean load, but a full disk or a response that is too large.
        for_good = error.retry_after_s is None and (error.reason or is_too_large(error))
        return _NUMBERS[error.code] if for_good else REFUSED
    return _NUMBERS.get(error.code, _NUMBERS["UNKNOWN"])


def is_failure(outcome: int) -> bool:
    """Whether the call failed: it was neither answered nor refused nor interrupted."""
    return outcome > ANSWERED


def code_name(outcome: int) -> str:
    """Returns the name of a failed call's status code."""
    return _NAMES.get(outcome, "UNKNOWN")
