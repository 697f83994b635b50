"""A twinsight server in memory, for tests of code that uses the client.

    from twinsight_client import NewItem
    from twinsight_client.testing import FakeClient

    def test_finds_the_cat() -> None:
        with FakeClient() as client:
            client.create_collection("photos", model="fake")
            client.upsert("photos", [NewItem("cat", "cat.jpg")]).values()
            (matches,) = client.search("photos", ["cat.jpg"]).values()
            assert matches[0].id == "cat"

`FakeClient` is a `Client` and `AsyncFakeClient` an `AsyncClient`: they build the same requests and parse the same
responses, but send them to a `MemoryServer` instead of the network. It follows the contract where tests need it: search
is exact, filters work, an undecodable picture fails alone, unknown names are `NotFound`, and what a server rejects by
its rules and default limits (`limits`) is rejected in the same way. It does not look at pictures: a picture's vector is
derived from its bytes, so equal bytes are equal (cosine 1) and everything else is unlike (cosine about 0). Labels and
boxes are derived from the bytes too. Nothing is random and nothing is stored on disk.

`server.fail_next` makes the next calls fail, to test how code handles errors:

    client.server.fail_next(Unavailable("The server drains."))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

from google.protobuf.message import Message

from twinsight_client.aio import AsyncClient
from twinsight_client.client import Client
from twinsight_client.operations import Operation
from twinsight_client.results import CallInfo, StageTimes
from twinsight_client.streams import Flow
from twinsight_client.testing.memory import MemoryServer
from twinsight_client.testing.stream import MemoryStream
from twinsight_client.transport import closed

__all__ = ["AsyncFakeClient", "FakeClient", "MemoryServer"]

T = TypeVar("T")
R = TypeVar("R", bound=Message)
A = TypeVar("A")


class FakeClient(Client):
    """A `Client` of a server in memory.

    Args:
        server: the server; None: a new, empty one. Clients that share a server see each other's writes.

    Attributes:
        server: the server.
    """

    def __init__(self, server: MemoryServer | None = None) -> None:
        self.server = server or MemoryServer()
        super().__init__(transport=_MemoryTransport(self.server))


class AsyncFakeClient(AsyncClient):
    """An `AsyncClient` of a server in memory; the arguments are those of `FakeClient`."""

    def __init__(self, server: MemoryServer | None = None) -> None:
        self.server = server or MemoryServer()
        super().__init__(transport=_AsyncMemoryTransport(self.server))


class _InMemory:
    """Passes requests to the server without a network, until it is closed; deadlines never pass."""

    most_bytes = -1

    def __init__(self, server: MemoryServer) -> None:
        self._open = True
        self._server = server

    def _check_open(self, request_id: str = "") -> None:
        if not self._open:
            raise closed(request_id=request_id)

    def _answer(self, operation: Operation[R, A], request_id: str) -> A:
        self._check_open()
        response = self._server.answer(operation.request)
        return operation.parse(_checked(response, operation.response), _call_info(request_id))

    def _opened(self, request_id: str) -> MemoryStream:
        self._check_open(request_id)
        return MemoryStream(self._server)

    def _answer_in(self, stream: MemoryStream, flow: Flow[T, R, A], request: Message, request_id: str) -> A:
        self._check_open(request_id)
        return flow.parse(_checked(stream.answer(request), flow.response), _call_info(request_id))


class _MemoryTransport(_InMemory):
    """To be called from threads."""

    def call(self, operation: Operation[R, A], *, timeout_s: float, request_id: str) -> A:  # noqa: ARG002
        return self._answer(operation, request_id)

    def stream(
        self,
        flow: Flow[T, R, A],
        requests: Iterator[Message],
        *,
        timeout_s: float | None,  # noqa: ARG002
        request_id: str,
    ) -> Iterator[A]:
        stream = self._opened(request_id)
        for request in requests:
            yield self._answer_in(stream, flow, request, request_id)

    def close(self) -> None:
        self._open = False


class _AsyncMemoryTransport(_InMemory):
    """The same from asyncio."""

    async def call(self, operation: Operation[R, A], *, timeout_s: float, request_id: str) -> A:  # noqa: ARG002
        return self._answer(operation, request_id)

    async def stream(
        self,
        flow: Flow[T, R, A],
        requests: AsyncIterator[Message],
        *,
        timeout_s: float | None,  # noqa: ARG002
        request_id: str,
    ) -> AsyncIterator[A]:
        stream = self._opened(request_id)
        async for request in requests:
            yield self._answer_in(stream, flow, request, request_id)

    async def close(self) -> None:
        self._open = False


def _call_info(request_id: str) -> CallInfo:
    return CallInfo(request_id=request_id, times=StageTimes(total_ms=0.0))


def _checked(response: Message, expected: type[R]) -> R:
    if not isinstance(response, expected):
        raise AssertionError(f"{type(response).__name__} answers where {expected.__name__} should.")
    return response
