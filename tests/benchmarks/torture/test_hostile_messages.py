from __future__ import annotations

import pytest
from benchmarks.torture.hostile_messages import documented, flaw
from benchmarks.torture.messages import METHODS, hostile_call
from google.rpc import status_pb2


def test_a_seed_always_makes_the_same_call() -> None:
    assert hostile_call(7) == hostile_call(7)


def test_calls_are_of_every_method_and_most_are_messages() -> None:
    calls = [hostile_call(seed) for seed in range(400)]
    assert {call.method.full_name for call in calls} == {method.full_name for method in METHODS}
    assert len({call.request for call in calls}) > 250
    assert {service.containing_service.name for service in METHODS} == {
        "InferenceService",
        "CollectionService",
        "ModelService",
        "Health",
        "ServerReflection",
    }


def test_the_contract_names_the_codes() -> None:
    assert documented() >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
    assert not documented() & {"UNKNOWN", "ABORTED", "UNIMPLEMENTED"}


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("UNKNOWN", "Exception calling application: 'id'"),
        ("INTERNAL", "Internal error; see the server's log for this request id."),
        ("INTERNAL", "Exception deserializing request!"),
        ("UNAVAILABLE", "Socket closed"),
        ("INVALID_ARGUMENT", "KeyError('id')"),
        ("NOT_FOUND", "/srv/twinsight_server/calls/call.py"),
    ],
)
def test_a_code_that_is_not_documented_and_a_text_that_tells_are_flaws(code: str, text: str) -> None:
    assert flaw(code, text) == f"{code} {text!r}"


def test_an_item_that_fails_with_an_unforeseen_error_is_a_flaw() -> None:
    assert flaw("OK", "", [status_pb2.Status(code=3, message="`id` is empty.")]) == ""
    assert (
        flaw("OK", "", [status_pb2.Status(code=13, message="Internal error")]) == "an item: INTERNAL 'Internal error'"
    )


def test_what_is_allowed_is_no_flaw() -> None:
    assert flaw("OK", "") == ""
    assert flaw("RESOURCE_EXHAUSTED", "received metadata size exceeds hard limit") == ""
