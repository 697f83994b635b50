"""What callers are told of errors."""

from google.rpc import error_details_pb2

from twinsight_core.errors import TwinsightError
from twinsight_server.status import status_of


def test_a_fault_of_the_servers_own_keeps_its_reason_and_hides_its_text() -> None:
    status = status_of(TwinsightError("CUDA error at secret/x.py", reason="COMPUTE_FAILED"), request_id="r")
    details, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    assert status.details[0].Unpack(details)
    assert status.details[1].Unpack(request)
    assert (status.code, details.reason, request.request_id) == (13, "COMPUTE_FAILED", "r")
    assert status.message == "Internal error; see the server's log for this request id."
