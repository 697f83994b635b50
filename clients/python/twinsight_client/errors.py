"""Everything that a call can fail with, as one tree.

    TwinsightClientError
    ├── InvalidArgument         the request breaks a rule; says which field and which rule
    ├── NotFound                no model, collection or item of that name
    ├── AlreadyExists           the name is taken
    ├── FailedPrecondition      right call, wrong state: a vector of another model, say
    ├── ResourceExhausted       refused for load (with `retry_after_s`) or too large (without)
    ├── DeadlineExceeded        the time given ran out
    ├── Unavailable             nobody answers, or the server starts or drains
    ├── DataLoss                the stored data is damaged; nothing was deleted
    ├── Cancelled               the call was given up
    ├── Unauthenticated         the server does not know who calls
    ├── PermissionDenied        the server knows, and says no
    └── ServerError             a fault of the server's, or an answer that the contract does not know

A call raises one of them when it fails as a whole. Where one item of many fails, its place in the results holds an
`ItemError`, which `ItemError.exception` turns into the same classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldViolation:
    """One rule that the request breaks.

    Attributes:
        field: path of the field in the request (`images[3].encoded`).
        description: the rule.
    """

    field: str
    description: str


class TwinsightClientError(Exception):
    """Base of the tree.

    Attributes:
        code: name of the gRPC status code.
        message: what the server says, for a person.
        reason: stable UPPER_SNAKE_CASE word for programs; empty where none was given.
        violations: the rules broken, where the server names fields.
        request_id: the call's id, as the server's logs have it; empty where the call never left.
    """

    code: str = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        violations: Sequence[FieldViolation] = (),
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.violations = tuple(violations)
        self.request_id = request_id

    @property
    def field(self) -> str:
        """Path of the first offending field; empty if there is none."""
        return self.violations[0].field if self.violations else ""


class InvalidArgument(TwinsightClientError):
    """The request breaks a rule; sending it again changes nothing. Raised before sending where the client can tell."""

    code = "INVALID_ARGUMENT"


class NotFound(TwinsightClientError):
    """Nothing has that name."""

    code = "NOT_FOUND"


class AlreadyExists(TwinsightClientError):
    """The name is taken."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(TwinsightClientError):
    """The call does not fit the state of what it names."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(TwinsightClientError):
    """The server refused: for load, or because the message is too large or its disk is full.

    Attributes:
        retry_after_s: seconds after which another try may go through; None where trying again changes nothing.
    """

    code = "RESOURCE_EXHAUSTED"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        reason: str = "",
        violations: Sequence[FieldViolation] = (),
        request_id: str = "",
    ) -> None:
        super().__init__(message, reason=reason, violations=violations, request_id=request_id)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(TwinsightClientError):
    """The time given ran out. A write may have happened all the same."""

    code = "DEADLINE_EXCEEDED"


class Unavailable(TwinsightClientError):
    """Nobody answers at the address, or the server starts or drains, which ends its streams."""

    code = "UNAVAILABLE"


class DataLoss(TwinsightClientError):
    """Stored data can't be read; nothing was deleted."""

    code = "DATA_LOSS"


class Cancelled(TwinsightClientError):
    """The call was given up before it was answered."""

    code = "CANCELLED"


class Unauthenticated(TwinsightClientError):
    """The server does not know who calls."""

    code = "UNAUTHENTICATED"


class PermissionDenied(TwinsightClientError):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"


class ServerError(TwinsightClientError):
    """A fault on the server's side, or an answer that the contract does not know.

    The text is fixed by the server and tells little; its logs tell the rest under `request_id`.
    """

    code = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        code: str = "INTERNAL",
        reason: str = "",
        violations: Sequence[FieldViolation] = (),
        request_id: str = "",
    ) -> None:
        super().__init__(message, reason=reason, violations=violations, request_id=request_id)
        self.code = code


_CLASSES: dict[str, type[TwinsightClientError]] = {
    one.code: one
    for one in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        DeadlineExceeded,
        Unavailable,
        DataLoss,
        Cancelled,
        Unauthenticated,
        PermissionDenied,
    )
}


def error_of(
    code: str,
    message: str,
    *,
    reason: str = "",
    violations: Sequence[FieldViolation] = (),
    request_id: str = "",
    retry_after_s: float | None = None,
) -> TwinsightClientError:
    """Returns the error of the class that stands for `code`, the name of a gRPC status code."""
    if code == ResourceExhausted.code:
        return ResourceExhausted(
            message, retry_after_s=retry_after_s, reason=reason, violations=violations, request_id=request_id
        )
    if code in _CLASSES:
        return _CLASSES[code](message, reason=reason, violations=violations, request_id=request_id)
    return ServerError(message, code=code, reason=reason, violations=violations, request_id=request_id)
