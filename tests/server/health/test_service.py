"""Health beside watchers that take nothing, by frames of HTTP/2."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from e2e.conftest import health_stub
from twinsight_server.health import prompt as health_prompt
from twinsight_server.health import service as health_service
from twinsight_server.health.prompt import PromptHealth
from twinsight_server.health.service import HealthService

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
EMPTY = b"\0\0\0\0\0"
SETTINGS, HEADERS, DATA = 4, 1, 0
END_OF_STREAM, END_OF_HEADERS, ACKNOWLEDGED = 1, 4, 1


class Served:
    """A health service behind gRPC, with few threads."""

    def __init__(self, opened: ExitStack) -> None:
        self.service = HealthService(["", "twinsight.Service"])
        server = grpc.server(ThreadPoolExecutor(4), interceptors=[PromptHealth()])
        health_pb2_grpc.add_HealthServicer_to_server(self.service, server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        opened.callback(lambda: server.stop(0).wait())
        self.stub = health_stub(opened.enter_context(grpc.insecure_channel(f"127.0.0.1:{self.port}")))

    def check(self, service: str = "") -> int:
        status: int = self.stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status
        return status


@pytest.fixture
def served() -> Iterator[Served]:
    with ExitStack() as opened:
        yield Served(opened)


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content


def takes_nothing(port: int, method: str, calls: int) -> socket.socket:
    """Asks, on a connection whose windows are 0: no byte of an answer may leave."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/grpc.health.v1.Health/{method}",
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    headers = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
    connection.sendall(frame(SETTINGS, ACKNOWLEDGED, 0, b""))
    for number in range(calls):
        stream = 2 * number + 1
        connection.sendall(frame(HEADERS, END_OF_HEADERS, stream, headers))
        connection.sendall(frame(DATA, END_OF_STREAM, stream, EMPTY))
    return connection


def ends(work: threading.Thread) -> bool:
    work.start()
    work.join(10)
    return not work.is_alive()


def test_it_answers_for_its_services_and_for_no_other(served: Served) -> None:
    assert served.check() == served.check("twinsight.Service") == NOT_SERVING
    served.service.tell(serving=True)
    assert served.check() == SERVING
    with pytest.raises(grpc.RpcError) as told:
        served.check("another")
    assert told.value.code() is grpc.StatusCode.NOT_FOUND
    assert told.value.details() == "The server has no service `another`."


def test_watchers_are_told_of_each_change_once_and_of_the_end_for_good(served: Served) -> None:
    watch = served.stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
    assert next(watch).status == NOT_SERVING
    for _ in range(3):
        served.service.tell(serving=True)
    assert next(watch).status == SERVING
    served.service.stop()
    assert next(watch).status == NOT_SERVING
    served.service.tell(serving=True)
    assert served.check() == NOT_SERVING
    watch.cancel()


def test_a_watcher_of_an_unknown_service_is_told_so_and_nothing_of_it_is_kept(served: Served) -> None:
    watch = served.stub.Watch(health_pb2.HealthCheckRequest(service="x" * 100_000), timeout=30)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()
    deadline = time.monotonic() + 10
    while served.service._watchers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not served.service._watchers


def test_watchers_that_take_nothing_hold_up_nobody_and_are_cut_off(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_service, "_SEND_S", 0.2)
    with takes_nothing(served.port, "Watch", 20) as connection:
        watch = served.stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watch).status == NOT_SERVING
        assert ends(threading.Thread(target=served.service.tell, kwargs={"serving": True}, daemon=True))
        assert served.check() == SERVING
        assert next(watch).status == SERVING
        deadline = time.monotonic() + 20
        while len(served.service._watchers) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(served.service._watchers) == 1
        assert ends(threading.Thread(target=served.service.stop, daemon=True))
        assert next(watch).status == NOT_SERVING
        assert connection.fileno() >= 0
        watch.cancel()


def test_questions_whose_answers_are_not_taken_hold_no_thread(served: Served) -> None:
    with takes_nothing(served.port, "Check", 20):
        assert served.check() == NOT_SERVING


def test_so_many_may_watch(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_service, "MOST_WATCHERS", 1)
    first = served.stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
    assert next(first).status == NOT_SERVING
    second = served.stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
    with pytest.raises(grpc.RpcError) as told:
        next(second)
    assert told.value.code() is grpc.StatusCode.UNIMPLEMENTED  # clients then call on without watching
    assert told.value.details() == "Too many Watch streams (limit 1)."
    first.cancel()


class Watching:
    """What gRPC passes with a call to watch."""

    def __init__(self) -> None:
        self.cancelled = False

    def add_callback(self, _: object) -> bool:
        return True

    def cancel(self) -> None:
        self.cancelled = True


def test_watchers_are_told_once_threads_can_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    service, told = HealthService([""]), SimpleQueue[int]()
    context = cast("grpc.ServicerContext", Watching())

    def submit(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(service._senders, "submit", submit)
        service.Watch(health_pb2.HealthCheckRequest(), context, lambda one: told.put(one.status))
        service.tell(serving=True)
    service.tell(serving=True)
    assert told.get(timeout=20) == SERVING


def test_a_watcher_that_could_hang_for_want_of_a_thread_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    service, watching = HealthService([""]), Watching()

    class NoTimer(threading.Timer):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "Timer", NoTimer)
    context = cast("grpc.ServicerContext", watching)
    service.Watch(health_pb2.HealthCheckRequest(), context, lambda _: None)
    service._senders.shutdown()
    assert watching.cancelled
    assert not service._watchers


def test_health_calls_are_thinned_once_threads_can_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    health = PromptHealth()
    contexts = [cast("grpc.ServicerContext", Watching()) for _ in range(health_prompt.MOST_WAITING + 1)]
    started: list[bool] = []

    class Timer(threading.Timer):
        def start(self) -> None:
            started.append(len(started) > 0)
            if len(started) == 1:
                raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "Timer", Timer)
    for context in contexts:
        health._waiting[context] = 0.0
    for expected in (False, True):
        health._thin_later()
        assert health._thinning is expected
