"""Calls turned away, over real connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from twinsight_core.host.cores import usable_cores
from twinsight_server.calls.gate import Gate
from twinsight_server.calls.shedding import LoadShedding
from twinsight_server.calls.threads import CallThreads
from twinsight_server.metrics import Metrics

LARGE = bytes(8 << 20)


class House:
    """A server of one method that echoes, behind a gate with one place."""

    def __init__(self, *, places: int = 1, threads: int = 4) -> None:
        self.metrics = Metrics()
        self.gate = Gate(self.metrics, max_calls=places, max_streams=1)
        self.read: list[int] = []
        self.inside, self.go = threading.Event(), threading.Event()
        self.threads = CallThreads(threads, cores=usable_cores())
        self._server = grpc.server(
            self.threads,
            interceptors=[LoadShedding(self.gate, self.threads, ["/twinsight.v1.InferenceService/Embed"])],
            options=[("grpc.max_receive_message_length", 2 * len(LARGE))],
        )
        for service in ("twinsight.v1.InferenceService", "other.v1.InferenceService"):
            echo: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
                self._echo, request_deserializer=self._parsed
            )
            self._server.add_registered_method_handlers(service, {"Embed": echo})
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}")
        self._server.start()

    def call(self, message: bytes, service: str = "twinsight.v1.InferenceService") -> bytes:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(f"/{service}/Embed")
        return method(message, metadata=(("x-request-id", "mine"),), timeout=60)

    def close(self) -> None:
        self.go.set()
        self.channel.close()
        self._server.stop(None)
        self.metrics.close()

    def _parsed(self, content: bytes) -> bytes:
        self.read.append(len(content))
        return content

    def _echo(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        if message == b"aside":
            return message
        with self.gate.call(context, "Embed"):
            self.inside.set()
            assert self.go.wait(60)
        return message[:10]


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


def refused(house: House, message: bytes) -> tuple[grpc.StatusCode, str]:
    """The code and the reason of a call that is refused under the request id it came with."""
    with pytest.raises(grpc.RpcError) as caught:
        house.call(message)
    assert isinstance(caught.value, grpc.Call)
    status = rpc_status.from_call(caught.value)
    assert status
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    request = error_details_pb2.RequestInfo()
    assert status.details[-1].Unpack(request)
    assert request.request_id == "mine"
    return caught.value.code(), info.reason


def test_a_call_without_a_place_is_told_so_and_its_message_stays_unread(house: House) -> None:
    house.gate.open()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(house.call, b"x" * 20)
        assert house.inside.wait(60)
        for _ in range(20):
            assert refused(house, LARGE) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CALLS_FULL")
        assert house.read == [20]
        house.go.set()
        assert first.result(60) == b"x" * 10
    assert house.call(LARGE) == bytes(10)
    value = house.metrics.registry.get_sample_value
    assert value("twinsight_refused_total", {"reason": "CALLS_FULL"}) == 20
    assert value("twinsight_calls_total", {"method": "Embed", "code": "RESOURCE_EXHAUSTED"}) == 20


def test_calls_beyond_the_threads_are_turned_away_though_there_are_places() -> None:
    house = House(places=9, threads=2)
    house.gate.open()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(house.call, b"x" * 20) for _ in range(2)]
        ends = time.monotonic() + 60
        while not house.threads.are_taken and time.monotonic() < ends:
            time.sleep(0.01)
        assert refused(house, LARGE) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CALLS_FULL")
        house.go.set()
        assert [one.result(60) for one in calls] == [b"x" * 10] * 2
    while house.threads.are_taken and time.monotonic() < ends:
        time.sleep(0.01)
    assert house.call(LARGE) == bytes(10)
    assert house.read == [20, 20, len(LARGE)]
    house.close()


def test_before_it_serves_and_while_it_drains_calls_are_told_why(house: House) -> None:
    assert refused(house, LARGE) == (grpc.StatusCode.UNAVAILABLE, "STARTING")
    house.gate.open()
    house.gate.close()
    assert refused(house, LARGE) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert house.read == []


def test_calls_of_other_services_pass(house: House) -> None:
    assert house.call(b"aside", "other.v1.InferenceService") == b"aside"


def test_who_is_not_known_at_once_is_asked_in_a_thread_of_its_own(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.gate.open()
    monkeypatch.setattr(house.gate, "knows", lambda _: False)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(house.call, b"x" * 20)
        assert house.inside.wait(60)
        assert refused(house, b"y" * 30) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CALLS_FULL")
        assert house.read == [20, 30], "it went the way of any call"
        house.go.set()
        first.result(60)
