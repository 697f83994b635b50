"""Every error that a call can raise, as one tree.

    TwinsightClientError
    ├── InvalidArgument         the request breaks a rule; says which field and which rule
    ├── NotFound                no model, collection or item of that name
    ├── AlreadyExists           the name is taken
    ├── FailedPrecondition      right call, wrong state: a vector of another model, for example
    ├── ResourceExhausted       rejected for load (with `retry_after_s`), or too large (without)
    ├── DeadlineExceeded        the deadline passed
    ├── Unavailable             no server answers, or it is starting or draining
    ├── DataLoss                the stored data is damaged; nothing was deleted
    ├── Cancelled               the call was cancelled
    ├── Unauthenticated         the server can't identify the caller
    ├── PermissionDenied        the caller is not allowed to do this
    └── ServerError             a fault in the server, or a status the API does not define

A call that fails as a whole raises one of them. If one item of many fails, its place in the results holds an
`ItemError`; `ItemError.exception` turns it into one of the same classes.
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
        message: human-readable description.
        reason: stable UPPER_SNAKE_CASE identifier for programs; empty if there is none.
        violations: the rules that were broken, if the server names fields.
        request_id: id of the call in the server's logs; empty if the call was never sent.
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
    """The request breaks a rule; retrying does not help. Raised before sending if the client can tell."""

    code = "INVALID_ARGUMENT"


class NotFound(TwinsightClientError):
    """Nothing has that name."""

    code = "NOT_FOUND"


class AlreadyExists(TwinsightClientError):
    """The name is taken."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(TwinsightClientError):
    """The call does not suit the state of the model, collection or item it names."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(TwinsightClientError):
    """The server rejected the call: for load, or because the message is too large or its disk is full.

    Attributes:
        retry_after_s: seconds after which a retry may succeed; None if retrying does not help.
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
    """The deadline passed. A write may have happened anyway."""

    code = "DEADLINE_EXCEEDED"


class Unavailable(TwinsightClientError):
    """No server answers at the address, or it is starting or draining, which ends its streams."""

    code = "UNAVAILABLE"


class DataLoss(TwinsightClientError):
    """Stored data can't be read; nothing was deleted."""

    code = "DATA_LOSS"


class Cancelled(TwinsightClientError):
    """The call was cancelled before it was answered."""

    code = "CANCELLED"


class Unauthenticated(TwinsightClientError):
    """The server can't identify the caller."""

    code = "UNAUTHENTICATED"


class PermissionDenied(TwinsightClientError):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"


class ServerError(TwinsightClientError):
    """A fault in the server, or a status that the API does not define.

    The server's message is fixed and says little; its logs have the details under `request_id`.
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
    """Returns an error of the class for `code`, the name of a gRPC status code."""
    if code == ResourceExhausted.code:
        return ResourceExhausted(
            message, retry_after_s=retry_after_s, reason=reason, violations=violations, request_id=request_id
        )
    if code in _CLASSES:
        return _CLASSES[code](message, reason=reason, violations=violations, request_id=request_id)
    return ServerError(message, code=code, reason=reason, violations=violations, request_id=request_id)
