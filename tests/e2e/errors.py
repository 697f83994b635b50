"""Reads google.rpc details out of errors."""

from __future__ import annotations

from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from e2e.conftest import Dynamic


def reason(status: Dynamic) -> str:
    """Reason of a google.rpc.Status in a `results` list."""
    return _detail(status.details, error_details_pb2.ErrorInfo()).reason


def field(status: Dynamic) -> str:
    """Path of the first offending field; empty if there is none."""
    bad = _detail(status.details, error_details_pb2.BadRequest())
    return bad.field_violations[0].field if bad.field_violations else ""


def status_of(error: Dynamic) -> status_pb2.Status:
    """The whole status of a failed call."""
    status = rpc_status.from_call(error)
    assert status is not None
    return status


def retry_after_s(error: Dynamic) -> float:
    """Seconds of google.rpc.RetryInfo."""
    delay = _detail(status_of(error).details, error_details_pb2.RetryInfo()).retry_delay
    return delay.seconds + delay.nanos / 1e9


def _detail(details: Dynamic, kind: Dynamic) -> Dynamic:
    for one in details:
        if one.Unpack(kind):
            break
    return kind
