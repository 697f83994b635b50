"""The gate, asked by contexts that stand in for gRPC's."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import grpc
import pytest
import structlog
from grpc_reflection.v1alpha import reflection_pb2

from twinsight_core.errors import Overloaded, StorageFull, Unauthenticated
from twinsight_server.access.audit import AuditLog
from twinsight_server.access.control import AccessControl
from twinsight_server.access.guard import Guard, Metadata
from twinsight_server.access.limits import Limiter
from twinsight_server.access.principals import RIGHTS, Grant, Principal, Share
from twinsight_server.calls.call import Call
from twinsight_server.calls.gate import Gate
from twinsight_server.metrics import Metrics
from twinsight_server.services.reflection import GuardedReflection


class Aborted(Exception):
    """What gRPC raises in a handler that aborts."""


class Context:
    """One RPC without a deadline; `end` says that its answer, or its caller, has left."""

    def __init__(self, *, ended: bool = False) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self._ended = ended
        self.status: grpc.Status | None = None

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return []

    def time_remaining(self) -> None:
        return None

    def peer(self) -> str:
        return "here"

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self._callbacks.append(callback)
        return not self._ended

    def set_trailing_metadata(self, trailing: object) -> None:
        """Nobody reads it."""

    def abort_with_status(self, status: grpc.Status) -> None:
        self.status = status
        raise Aborted

    def cancel(self) -> None:
        self.end()

    def end(self) -> None:
        for callback in self._callbacks:
            callback()


def context(one: Context | None = None) -> grpc.ServicerContext:
    return cast("grpc.ServicerContext", one or Context())


@pytest.fixture
def gate() -> Gate:
    made = Gate(Metrics(), max_calls=1, max_streams=2)
    made.open()
    return made


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a message waits for its turn."""
    asked, right = threading.Event(), Call.patience_s

    def watched(call: Call) -> float | None:
        asked.set()
        return right(call)

    monkeypatch.setattr(Call, "patience_s", watched)
    return asked


def one_message(gate: Gate, of: Context) -> str:
    with gate.stream(context(of), "EmbedStream") as stream, gate.message(stream, "EmbedStream"):
        return "in work"


def test_a_message_of_a_stream_waits_for_its_turn(gate: Gate, waits: threading.Event) -> None:
    with ThreadPoolExecutor(1) as pool:
        with gate.call(context(), "ListModels"):
            message = pool.submit(one_message, gate, Context())
            assert waits.wait(30)
            assert not message.done()
        assert message.result(30) == "in work"


def test_a_stream_that_comes_just_as_draining_begins_is_not_left_open(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = gate._opened.add

    def late(stream: Call, context: grpc.ServicerContext) -> None:
        gate.close()  # its streams that have nothing in work were just ended
        add(stream, context)

    monkeypatch.setattr(gate._opened, "add", late)
    of = Context()
    with pytest.raises(Aborted):
        one_message(gate, of)
    assert of.status is not None
    assert of.status.code is grpc.StatusCode.UNAVAILABLE


class Known(Context):
    """An RPC of a caller of some name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.is_over = name, threading.Event()

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", self.name)]

    def cancel(self) -> None:
        self.is_over.set()
        super().cancel()


@pytest.mark.parametrize("is_busy", [False, True])
@pytest.mark.parametrize(("max_streams", "own"), [(1, 0), (9, 1)])
def test_a_stream_without_a_valid_token_gives_up_its_place(
    monkeypatch: pytest.MonkeyPatch, *, max_streams: int, own: int, is_busy: bool
) -> None:
    revoked: set[str] = set()

    def identify(_guard: Guard, metadata: Metadata) -> Principal:
        ((_key, name),) = metadata
        if name in revoked:
            raise Unauthenticated("no", reason="CREDENTIALS_INVALID")
        # A name of a new key is that of the old one.
        return Principal("key", str(name).removesuffix("-new"), (Grant(frozenset(RIGHTS), ("*",)),))

    monkeypatch.setattr(Guard, "identify", identify)
    access = AccessControl(limiter=Limiter(Share(), Share(max_streams=own)))
    access.guard.is_open = False
    gate = Gate(Metrics(), max_calls=1, max_streams=max_streams, access=access)
    gate.open()
    first, begun = Known("a"), threading.Event()

    def one() -> None:
        with gate.stream(context(first), "EmbedStream") as stream:
            if is_busy:  # its answer leaves for ever
                gate._opened.begin(stream)
            begun.set()
            assert first.is_over.wait(30)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(one)
        assert begun.wait(30)
        with pytest.raises(Aborted), gate.stream(context(Known("a-new")), "EmbedStream"):
            raise AssertionError("there is no place")
        assert not first.is_over.is_set()
        revoked.add("a")
        with gate.stream(context(Known("a-new")), "EmbedStream"):
            assert first.is_over.is_set()
        with pytest.raises(Aborted):
            running.result(30)


def one_answered_message(gate: Gate, of: Context, *, closed_before_answer: bool) -> None:
    with gate.stream(context(of), "EmbedStream") as stream:
        with gate.message(stream, "EmbedStream"):
            pass
        if closed_before_answer:
            gate.close()
        stream.check_alive()
        gate.answered(stream)
        gate.close()
        stream.check_alive()


@pytest.mark.parametrize(("before", "code"), [(True, "UNAVAILABLE"), (False, "CANCELLED")])
def test_draining_leaves_a_stream_alone_until_its_answer_has_left(gate: Gate, before: bool, code: str) -> None:
    of = Context()
    with pytest.raises(Aborted):
        one_answered_message(gate, of, closed_before_answer=before)
    assert of.status is not None
    assert of.status.code.name == code


def test_a_call_is_refused_at_once(gate: Gate, waits: threading.Event) -> None:
    refused = Context()
    with gate.call(context(), "ListModels"), pytest.raises(Aborted), gate.call(context(refused), "ListModels"):
        pass
    assert refused.status is not None
    assert refused.status.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not waits.is_set()


@pytest.mark.parametrize("how", ["drained", "gone"])
def test_a_message_waits_no_longer_than_its_caller_or_the_server(gate: Gate, waits: threading.Event, how: str) -> None:
    of = Context()
    with ThreadPoolExecutor(1) as pool, gate.call(context(), "ListModels"):
        message = pool.submit(one_message, gate, of)
        assert waits.wait(30)
        if how == "drained":
            gate.close()
        else:
            of.end()
        with pytest.raises(Aborted):
            message.result(30)
    assert of.status is not None
    assert of.status.code is (grpc.StatusCode.UNAVAILABLE if how == "drained" else grpc.StatusCode.CANCELLED)


def test_the_gate_is_drained_when_the_last_answer_has_left(gate: Gate) -> None:
    one, other = Context(), Context()
    with gate.call(context(one), "ListModels"):
        gate.close()
        with pytest.raises(Aborted), gate.call(context(other), "ListModels"):
            pass
        assert not gate.wait_drained(0)
    other.end()
    assert not gate.wait_drained(0)
    one.end()
    assert gate.wait_drained(0)


def test_a_gate_with_nothing_in_flight_is_drained_at_once(gate: Gate) -> None:
    with pytest.raises(Aborted), gate.call(context(Context(ended=True)), "ListModels"):
        pass
    gate.close()
    assert gate.wait_drained(0)


def test_a_failed_message_leaves_its_place(gate: Gate) -> None:
    with gate.stream(context(), "EmbedStream") as stream:
        for _ in range(2):
            with pytest.raises(Overloaded), gate.message(stream, "EmbedStream"):
                raise Overloaded("No.", retry_after_s=0.1)


class Keys(Guard):
    """Asks for tokens, and knows everybody, until `withdrawn`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.withdrawn = False

    def identify(self, metadata: Metadata) -> Principal:
        del metadata
        if self.withdrawn:
            raise Unauthenticated("No.", reason="CREDENTIALS_INVALID")
        return Principal("key", "phone", (Grant(frozenset(RIGHTS), ("*",)),))


def noted(path: Path) -> list[tuple[str, str, str]]:
    """What the audit log says of each: event, caller and code."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["event"], line["caller"], line["code"]) for line in lines]


@pytest.mark.parametrize(("guard", "caller"), [(Keys(), ""), (Guard(), "anyone")])
def test_a_call_that_ends_before_it_is_known_whose_it_is_is_nobodys_where_tokens_are_asked_for(
    tmp_path: Path, guard: Guard, caller: str
) -> None:
    gate = Gate(Metrics(), max_calls=1, max_streams=1, access=AccessControl(guard, audit=AuditLog(tmp_path / "a")))
    for _ in range(2):  # the first time it starts
        with pytest.raises(Aborted), gate.call(context(Context(ended=True)), "ListModels"):
            pass
        gate.open()
    assert noted(tmp_path / "a") == [("call", caller, "UNAVAILABLE"), ("call", caller, "CANCELLED")]


def test_a_stream_whose_key_was_withdrawn_is_still_its_holders_in_the_audit_log(tmp_path: Path) -> None:
    keys = Keys()
    gate = Gate(Metrics(), max_calls=1, max_streams=1, access=AccessControl(keys, audit=AuditLog(tmp_path / "a")))
    gate.open()

    def withdrawn() -> None:
        with gate.stream(context(), "EmbedStream") as stream:
            keys.withdrawn = True
            with gate.message(stream, "EmbedStream"):
                pass

    with pytest.raises(Aborted):
        withdrawn()
    assert noted(tmp_path / "a") == [
        ("message", "key:phone", "UNAUTHENTICATED"),
        ("stream", "key:phone", "UNAUTHENTICATED"),
    ]


def test_each_question_of_reflection_is_checked_and_noted(tmp_path: Path) -> None:
    keys = Keys()
    gate = Gate(Metrics(), max_calls=1, max_streams=1, access=AccessControl(keys, audit=AuditLog(tmp_path / "a")))
    gate.open()
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = GuardedReflection(gate, ["a.Service"]).ServerReflectionInfo(iter([question] * 2), context())
    assert [one.name for one in next(answers).list_services_response.service] == ["a.Service"]
    keys.withdrawn = True
    with pytest.raises(Aborted):
        next(answers)
    assert noted(tmp_path / "a") == [
        ("message", "key:phone", "OK"),
        ("stream", "key:phone", "UNAUTHENTICATED"),
    ]


def test_a_failed_call_is_told_with_its_reason_and_its_time_is_not_among_those_of_answered_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "twinsight.calls")
    metrics = Metrics()
    made = Gate(metrics, max_calls=1, max_streams=1)
    made.open()
    with structlog.testing.capture_logs() as lines:
        with made.call(context(), "ListModels"):
            pass
        with pytest.raises(Aborted), made.call(context(), "ListModels"):
            raise StorageFull("The disk is full.", reason="DISK_FULL")
    assert [(one["code"], one.get("reason")) for one in lines] == [("OK", None), ("RESOURCE_EXHAUSTED", "DISK_FULL")]
    value = metrics.registry.get_sample_value
    assert value("twinsight_failed_total", {"reason": "DISK_FULL"}) == 1
    assert value("twinsight_calls_total", {"method": "ListModels", "code": "RESOURCE_EXHAUSTED"}) == 1
    assert value("twinsight_call_seconds_count", {"method": "ListModels"}) == 1
