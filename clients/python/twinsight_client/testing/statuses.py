"""Errors of the fake server as statuses next to results."""

from __future__ import annotations

from google.rpc import code_pb2, error_details_pb2, status_pb2

from twinsight_client.errors import TwinsightClientError
from twinsight_client.status import DOMAIN


def status_of(error: TwinsightClientError) -> status_pb2.Status:
    """Returns an error as it appears in a `results` list or in the response to a message of a stream."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(domain=DOMAIN, reason=error.reason))
    if error.violations:
        request = error_details_pb2.BadRequest()
        for one in error.violations:
            request.field_violations.add(field=one.field, description=one.description)
        status.details.add().Pack(request)
    return status
