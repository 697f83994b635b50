"""Turns gRPC statuses into errors, and trailing metadata into `CallInfo`.

The server's details follow google.rpc: ErrorInfo (domain "twinsight") with a stable reason, BadRequest with the field's
path, RetryInfo if a retry may succeed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from twinsight_client.errors import FieldViolation, ResourceExhausted, TwinsightClientError, error_of
from twinsight_client.results import CallInfo, ItemError, StageTimes

DOMAIN = "twinsight"
CONNECTION_FULL = "CONNECTION_FULL"
_REFUSED = re.compile(r"RST_STREAM.* error code 7\b")
"""What gRPC says of a call that the server refused unread, HTTP/2's REFUSED_STREAM (RFC 9113, section 8.7): the
connection has no place for it. gRPC should wait for one, but may send a call just before its place is free."""
_RETRY_REFUSED_S = 0.05
REQUEST_ID = "x-request-id"
_CODE_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


def error_from_call(error: grpc.RpcError, *, request_id: str) -> TwinsightClientError:
    """Returns the client's error for a failed call, sync or asyncio; `request_id` is the id the call was sent with."""
    # The errors of grpc's sync client are calls; those of grpc.aio have the same methods.
    call = cast("grpc.Call", error)
    try:
        status = rpc_status.from_call(call)
    except (ValueError, DecodeError):
        # Details that contradict the status or can't be parsed come from a proxy. The status itself still counts.
        status = None
    if status is None:
        status = status_pb2.Status(code=call.code().value[0], message=call.details() or "")
    request_id = call_info(call.trailing_metadata() or (), sent=request_id).request_id
    if call.code() is grpc.StatusCode.UNAVAILABLE and not status.details and _REFUSED.search(status.message):
        return ResourceExhausted(
            f"Too many calls on this connection; the server did not read this one: {status.message}",
            reason=CONNECTION_FULL,
            request_id=request_id,
            retry_after_s=_RETRY_REFUSED_S,
        )
    return error_from_status(status, request_id=request_id)


def error_from_status(status: status_pb2.Status, *, request_id: str = "") -> TwinsightClientError:
    """Returns the client's error for a status."""
    code = _code_name(status.code)
    retry_after_s = None
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return error_of(
        code,
        status.message or f"The server returned {code} without a message.",
        reason=_reason(status),
        violations=_violations(status),
        request_id=request_id,
        retry_after_s=retry_after_s,
    )


def item_error(index: int, status: status_pb2.Status) -> ItemError:
    """Returns the error of the item at `index`."""
    code = _code_name(status.code)
    violations = _violations(status)
    return ItemError(
        index=index,
        code=code,
        reason=_reason(status),
        message=status.message or f"The server returned {code} without a message.",
        field=violations[0].field if violations else "",
    )


def is_too_large(error: TwinsightClientError) -> bool:
    """Whether the message is too large, rather than the load: a retry would fail, too."""
    if not isinstance(error, ResourceExhausted) or error.retry_after_s is not None:
        return False
    # gRPC itself gives no reason, neither for a message over its limit nor when it accepts no more calls.
    return error.reason == "CLIENT_CHECK" or (not error.reason and "larger than max" in error.message)


def call_info(metadata: Metadata, *, sent: str = "") -> CallInfo:
    """Returns the call info in the trailing metadata; `sent` is the fallback for the request id."""
    fields = {key: value for key, value in metadata if isinstance(value, str)}
    times = StageTimes(
        decode_ms=_milliseconds(fields, "decode"),
        queue_ms=_milliseconds(fields, "queue"),
        compute_ms=_milliseconds(fields, "compute"),
        search_ms=_milliseconds(fields, "search"),
        write_ms=_milliseconds(fields, "write"),
        total_ms=_milliseconds(fields, "total"),
    )
    return CallInfo(request_id=fields.get(REQUEST_ID, sent), times=times)


def _milliseconds(fields: dict[str, str], stage: str) -> float | None:
    try:
        return float(fields[f"twinsight-{stage}-ms"])
    except (KeyError, ValueError):
        return None


def _reason(status: status_pb2.Status) -> str:
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return str(info.reason)
    return ""


def _violations(status: status_pb2.Status) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    for detail in status.details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            found.extend(FieldViolation(one.field, one.description) for one in request.field_violations)
    return found


def _code_name(number: int) -> str:
    """Returns the name of a status code; UNKNOWN for numbers that gRPC does not have."""
    return _CODE_NAMES.get(number, "UNKNOWN")
