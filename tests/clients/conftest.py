"""A real gRPC server on a free port that answers from memory, and pictures to send."""

from __future__ import annotations

import io
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status
from PIL import Image

from twinsight.v1 import collection_service_pb2, inference_service_pb2, model_service_pb2
from twinsight_client.errors import TwinsightClientError
from twinsight_client.testing import MemoryServer


@dataclass
class Call:
    """One call as the server saw it."""

    method: str
    request_id: str
    time_remaining_s: float | None


@dataclass
class WireServer:
    """A gRPC server in front of a MemoryServer.

    Attributes:
        memory: what answers.
        calls: what came in, in order.
        refusals: statuses to end the next calls with, before anything is done.
        trailing: what to send after each answer.
        held: name of the calls that wait for `may_answer` before they are answered; empty: none.
        may_answer: lets them go on.
        arrived: names of the calls, to wait for one.
        address: HOST:PORT.
    """

    memory: MemoryServer = field(default_factory=MemoryServer)
    calls: list[Call] = field(default_factory=list)
    refusals: deque[status_pb2.Status] = field(default_factory=deque)
    trailing: tuple[tuple[str, str], ...] = ()
    held: str = ""
    may_answer: threading.Event = field(default_factory=threading.Event)
    arrived: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    address: str = ""

    def methods(self) -> list[str]:
        return [call.method for call in self.calls]

    def handlers(self) -> Iterator[grpc.GenericRpcHandler]:
        for module in (inference_service_pb2, collection_service_pb2, model_service_pb2, health_pb2):
            for service in module.DESCRIPTOR.services_by_name.values():
                yield grpc.method_handlers_generic_handler(
                    service.full_name, {method.name: self._handler(method) for method in service.methods}
                )

    def _handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler[Message, Message]:
        codecs = (
            message_factory.GetMessageClass(method.input_type).FromString,
            lambda response: response.SerializeToString(),
        )

        def unary(request: Message, context: grpc.ServicerContext) -> Message:
            self._enter(method, context)
            return self._answer(method, request, context)

        def stream(requests: Iterator[Message], context: grpc.ServicerContext) -> Iterator[Message]:
            self._enter(method, context)
            for request in requests:
                yield self._answer(method, request, context)

        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, *codecs)
        return grpc.unary_unary_rpc_method_handler(unary, *codecs)

    def _enter(self, method: MethodDescriptor, context: grpc.ServicerContext) -> None:
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        self.calls.append(Call(method.name, metadata.get("x-request-id", ""), context.time_remaining()))
        self.arrived.put(method.name)
        context.set_trailing_metadata(self.trailing)
        if self.refusals:
            context.abort_with_status(rpc_status.to_status(self.refusals.popleft()))

    def _answer(self, method: MethodDescriptor, request: Message, context: grpc.ServicerContext) -> Message:
        if method.name == self.held:
            self.may_answer.wait(timeout=30)
        try:
            return self.memory.answer(request)
        except TwinsightClientError as error:
            status = make_status(error.code, error.message, reason=error.reason, field=error.field)
            context.abort_with_status(rpc_status.to_status(status))


def make_status(
    code: str, message: str, *, reason: str = "", field: str = "", retry_after_s: float | None = None
) -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.Code.Value(code), message=message)
    if reason:
        status.details.add().Pack(error_details_pb2.ErrorInfo(domain="twinsight", reason=reason))
    if field:
        request = error_details_pb2.BadRequest()
        request.field_violations.add(field=field, description=message)
        status.details.add().Pack(request)
    if retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(retry_after_s * 1e9))
        status.details.add().Pack(retry)
    return status


@pytest.fixture
def new_status() -> Callable[..., status_pb2.Status]:
    """Makes a status with google.rpc details."""
    return make_status


@pytest.fixture
def wire() -> Iterator[WireServer]:
    wire = WireServer()
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(tuple(wire.handlers()))
    wire.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield wire
    wire.may_answer.set()
    server.stop(grace=None).wait()


@pytest.fixture
def dead_address() -> str:
    """An address at which nobody listens: bound a moment ago, and given back."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{bound.getsockname()[1]}"


def draw_picture(seed: int, *, size: int = 24, format: str = "JPEG") -> bytes:  # noqa: A002  # Pillow's word
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Callable[[int], bytes]:
    """Draws the bytes of a small JPEG, different for each number."""
    return draw_picture


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with four pictures, one of them broken, among other files."""
    root = tmp_path / "album"
    for name, seed in (("a.jpg", 1), ("2024/b.jpg", 2), ("2024/summer/c.JPG", 3)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(draw_picture(seed))
    (root / "2024" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot the rest")
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "d.jpg").write_bytes(draw_picture(4))
    return root
