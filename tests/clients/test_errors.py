"""Errors from statuses, and what an item's error says."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from google.rpc import status_pb2

from twinsight_client import errors
from twinsight_client.errors import ResourceExhausted, ServerError, TwinsightClientError
from twinsight_client.results import ItemError
from twinsight_client.status import call_info, error_from_call, error_from_status, item_error

pytestmark = pytest.mark.client
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", errors.InvalidArgument),
        ("NOT_FOUND", errors.NotFound),
        ("ALREADY_EXISTS", errors.AlreadyExists),
        ("FAILED_PRECONDITION", errors.FailedPrecondition),
        ("RESOURCE_EXHAUSTED", errors.ResourceExhausted),
        ("DEADLINE_EXCEEDED", errors.DeadlineExceeded),
        ("UNAVAILABLE", errors.Unavailable),
        ("DATA_LOSS", errors.DataLoss),
        ("CANCELLED", errors.Cancelled),
        ("UNAUTHENTICATED", errors.Unauthenticated),
        ("PERMISSION_DENIED", errors.PermissionDenied),
        ("INTERNAL", errors.ServerError),
        ("UNIMPLEMENTED", errors.ServerError),
    ],
)
def test_every_status_code_has_its_class_and_keeps_its_name(
    new_status: Callable[..., status_pb2.Status], code: str, kind: type[TwinsightClientError]
) -> None:
    error = error_from_status(new_status(code, "why"))
    assert type(error) is kind
    assert error.code == code
    assert str(error) == "why"


def test_the_docstring_draws_every_class_of_the_tree() -> None:
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    assert len(classes) == 13
    assert all(one.__name__ in str(errors.__doc__) for one in classes)


def test_details_give_reason_field_rule_and_wait(new_status: Callable[..., status_pb2.Status]) -> None:
    status = new_status("RESOURCE_EXHAUSTED", "Full.", reason="QUEUE_FULL", field="images", retry_after_s=0.25)
    error = error_from_status(status, request_id="r1")
    assert isinstance(error, ResourceExhausted)
    assert (error.reason, error.field, error.retry_after_s, error.request_id) == ("QUEUE_FULL", "images", 0.25, "r1")
    assert error.violations[0].description == "Full."


class Ended(grpc.RpcError):
    """A call that ended with a status of gRPC's own."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (UNAVAILABLE, "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))", "CONNECTION_FULL"),
        (UNAVAILABLE, "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))", ""),
        (UNAVAILABLE, "Stream removed (RST_STREAM (Received RST_STREAM with error code 77))", ""),
        (UNAVAILABLE, "failed to connect to all addresses", ""),
        (grpc.StatusCode.CANCELLED, "Received RST_STREAM with error code 7", ""),
    ],
)
def test_a_call_that_was_refused_unread_counts_as_refused_for_load(
    code: grpc.StatusCode, details: str, reason: str
) -> None:
    error = error_from_call(Ended(code, details), request_id="r1")
    assert (error.reason, error.request_id) == (reason, "r1")
    assert details in error.message
    assert (error.code, getattr(error, "retry_after_s", None)) == (
        ("RESOURCE_EXHAUSTED", 0.05) if reason else (code.name, None)
    )


def test_a_refusal_without_retry_info_names_no_wait(new_status: Callable[..., status_pb2.Status]) -> None:
    error = error_from_status(new_status("RESOURCE_EXHAUSTED", "Too large."))
    assert isinstance(error, ResourceExhausted)
    assert error.retry_after_s is None


def test_reasons_of_other_domains_are_not_taken_for_the_servers(
    new_status: Callable[..., status_pb2.Status],
) -> None:
    status = new_status("INTERNAL", "x", reason="PROXY")
    status.details[0].value = status.details[0].value.replace(b"twinsight", b"elsewhere")
    assert error_from_status(status).reason == ""


def test_a_status_without_a_message_still_says_something() -> None:
    error = error_from_status(status_pb2.Status(code=13))
    assert str(error) == "The server returned INTERNAL without a message."
    assert item_error(0, status_pb2.Status(code=99)).code == "UNKNOWN"


def test_details_that_contradict_the_status_are_dropped() -> None:
    details = status_pb2.Status(code=5, message="something else").SerializeToString()
    call = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("grpc-status-details-bin", details)),
        details="upstream is gone",
    )
    error = error_from_call(call, request_id="sent")
    assert isinstance(error, errors.Unavailable)
    assert (error.message, error.request_id) == ("upstream is gone", "sent")


def test_an_items_error_becomes_the_same_class_as_a_calls(new_status: Callable[..., status_pb2.Status]) -> None:
    item = item_error(3, new_status("NOT_FOUND", "Gone.", reason="ITEM_NOT_FOUND", field="ids[3]"))
    assert item == ItemError(3, "NOT_FOUND", "ITEM_NOT_FOUND", "Gone.", "ids[3]")
    error = item.exception(request_id="r")
    assert isinstance(error, errors.NotFound)
    assert (error.reason, error.field, error.request_id) == ("ITEM_NOT_FOUND", "ids[3]", "r")


def test_an_unknown_code_of_an_item_is_a_server_error() -> None:
    error = ItemError(0, "ABORTED", "", "why").exception()
    assert isinstance(error, ServerError)
    assert error.code == "ABORTED"


def test_stage_times_are_read_and_nonsense_among_them_is_left_out() -> None:
    info = call_info(
        [
            ("x-request-id", "r"),
            ("twinsight-decode-ms", "1.5"),
            ("twinsight-write-ms", "0.5"),
            ("twinsight-compute-ms", "soon"),
            ("twinsight-total-ms", "4"),
            ("some-bin", b"\0"),
        ],
        sent="s",
    )
    assert info.request_id == "r"
    assert (info.times.decode_ms, info.times.compute_ms, info.times.total_ms) == (1.5, None, 4.0)
    assert info.times.write_ms == 0.5
    assert call_info([], sent="s").request_id == "s"
