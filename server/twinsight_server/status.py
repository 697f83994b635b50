"""Maps the errors of `twinsight_core.errors` to gRPC statuses; the only place that does."""

from __future__ import annotations

from typing import NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from twinsight_core import errors

DOMAIN = "twinsight"
"""Domain of the reasons in `google.rpc.ErrorInfo`."""

_LONGEST_MESSAGE = 1000
"""gRPC rejects trailing metadata of over 8 KiB, which would hide the error behind one of its own."""

_CODES: dict[type[errors.TwinsightError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.LimitReached: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.AnswerTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
}


def code_of(error: errors.TwinsightError) -> grpc.StatusCode:
    """Returns the status code of an error; INTERNAL for errors that callers should not see."""
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return grpc.StatusCode.INTERNAL


def status_of(error: errors.TwinsightError, *, request_id: str = "") -> status_pb2.Status:
    """Returns an error as `google.rpc.Status`, for a `results` list or for the whole call.

    Args:
        error: what went wrong.
        request_id: added as `google.rpc.RequestInfo` if not empty.
    """
    code = code_of(error)
    if code is grpc.StatusCode.INTERNAL:
        return internal(request_id, reason=error.reason)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field[:_LONGEST_MESSAGE], description=error.message[:_LONGEST_MESSAGE], reason=error.reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, errors.Overloaded):
        delay = duration_pb2.Duration(nanos=int(error.retry_after_s * 1e9) % 10**9, seconds=int(error.retry_after_s))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(code, error.message, details, request_id)


def internal(request_id: str = "", *, reason: str = "INTERNAL") -> status_pb2.Status:
    """Returns the status of an unexpected error, with fixed text: an exception's own may reveal too much."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)]
    return _status(
        grpc.StatusCode.INTERNAL, "Internal error; see the server's log for this request id.", details, request_id
    )


class _AbortStatus(NamedTuple):
    """What `ServicerContext.abort_with_status` takes (a `grpc.Status`)."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


class AbortStatus(_AbortStatus, grpc.Status):
    """A status with trailing metadata: on abort, gRPC drops metadata that was set before."""


def abort_status(status: status_pb2.Status, trailing: tuple[tuple[str, str], ...]) -> AbortStatus:
    """Returns the status to abort a call with.

    Args:
        status: its details are sent as `grpc-status-details-bin`.
        trailing: additional trailing metadata.
    """
    aborted = rpc_status.to_status(status)
    return AbortStatus(aborted.code, aborted.details, (*aborted.trailing_metadata, *trailing))


def _status(code: grpc.StatusCode, message: str, details: list[Message], request_id: str) -> status_pb2.Status:
    if request_id:
        details = [*details, error_details_pb2.RequestInfo(request_id=request_id)]
    number: int = code.value[0]
    if len(message) > _LONGEST_MESSAGE:
        message = message[:_LONGEST_MESSAGE] + "…"
    return status_pb2.Status(code=number, message=message, details=[_pack(detail) for detail in details])


def _pack(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
