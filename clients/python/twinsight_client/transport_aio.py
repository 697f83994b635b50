"""How operations are sent from asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from twinsight_client.channel import ChannelOptions, Tls, channel_arguments
from twinsight_client.errors import TwinsightClientError
from twinsight_client.operations import Operation
from twinsight_client.results import CallInfo
from twinsight_client.retry import Attempts, RetryPolicy
from twinsight_client.status import call_info
from twinsight_client.streams import Flow
from twinsight_client.token import Bearer, Token
from twinsight_client.transport import Source, as_given, closed, error_told, serialized

T = TypeVar("T")
R = TypeVar("R", bound=Message)
A = TypeVar("A")


class AsyncTransport(Protocol):
    """Sends operations and returns their results; see `twinsight_client.transport.Transport`."""

    most_bytes: int

    async def call(self, operation: Operation[R, A], *, timeout_s: float, request_id: str) -> A:
        """Returns the result."""
        ...

    def stream(
        self, flow: Flow[T, R, A], requests: AsyncIterator[Message], *, timeout_s: float | None, request_id: str
    ) -> AsyncIterator[A]:
        """Yields the result of each of `requests`, in order."""
        ...

    async def close(self) -> None:
        """Closes the connection; safe to call again."""
        ...


class AsyncGrpcTransport:
    """A grpc.aio channel that retries calls where that is safe. It belongs to the event loop of its first call.

    Args:
        target: HOST:PORT, or whatever else gRPC resolves.
        tls: None: plain text.
        token: identifies the caller; None: no token.
        options: limits and timings of the connection.
        retry: how often to try.
        sleep: waits between tries.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | None,
        token: Token | None = None,
        options: ChannelOptions,
        retry: RetryPolicy,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._arguments = channel_arguments(target, options, tls)
        self._credentials = None if tls is None else tls.credentials()
        self.most_bytes = options.max_send_bytes
        self._retry = retry
        self._bearer = Bearer(token, target=target, tls=tls, allow_plaintext=options.allow_plaintext_token)
        self._sleep = sleep
        self._clock = clock
        self._opened: grpc.aio.Channel | None = None
        self._closed = False

    async def call(self, operation: Operation[R, A], *, timeout_s: float, request_id: str) -> A:
        """Sends the call, and retries it where that is safe and may help."""
        request = serialized(operation.request, most_bytes=self.most_bytes, request_id=request_id)
        attempts = Attempts(self._retry, operation.repeat, timeout_s=timeout_s, clock=self._clock)
        while True:
            try:
                return await self._once(operation, request, timeout_s=attempts.remaining_s(), request_id=request_id)
            except TwinsightClientError as error:
                wait_s = attempts.wait_after_s(error)
                if wait_s is None:
                    raise
            await self._sleep(wait_s)

    async def stream(
        self, flow: Flow[T, R, A], requests: AsyncIterator[Message], *, timeout_s: float | None, request_id: str
    ) -> AsyncIterator[A]:
        """Sends as the server has room, and yields results as they arrive."""
        source = _Source(requests, most_bytes=self.most_bytes, request_id=request_id)
        method = self._channel().stream_stream(
            flow.method,
            request_serializer=as_given,
            response_deserializer=flow.response.FromString,
        )
        metadata = self._bearer.metadata(request_id=request_id)
        call = method(source.messages(), timeout=timeout_s, metadata=metadata)
        final = _FinalStatus(call)
        info = CallInfo(request_id=request_id)
        cancellations = _cancellations()
        try:
            async for response in call:
                yield flow.parse(response, info)
        except asyncio.CancelledError:
            if self._closed and _cancellations() == cancellations:
                raise closed(request_id=request_id) from None
            raise
        except grpc.aio.AioRpcError as error:
            failure = await final.instead_of(error)
            raise error_told(failure, request_id=request_id, closed_here=self._closed) from None
        finally:
            # Otherwise the server would work on for a caller that stopped early; no effect on a finished call.
            call.cancel()
        source.raise_failure()

    async def close(self) -> None:
        """Closes the channel; calls in flight, and later ones, fail with `Cancelled`."""
        self._closed = True
        if self._opened is not None:
            await self._opened.close()

    async def _once(self, operation: Operation[R, A], request: bytes, *, timeout_s: float, request_id: str) -> A:
        method = self._channel().unary_unary(
            operation.method,
            request_serializer=as_given,
            response_deserializer=operation.response.FromString,
        )
        call = method(request, timeout=timeout_s, metadata=self._bearer.metadata(request_id=request_id))
        cancellations = _cancellations()
        try:
            response = await call
            trailing = await call.trailing_metadata()
        except asyncio.CancelledError:
            if self._closed and _cancellations() == cancellations:
                raise closed(request_id=request_id) from None
            raise
        except grpc.RpcError as error:
            # The client's error says it all; gRPC's own would triple every traceback.
            raise error_told(error, request_id=request_id, closed_here=self._closed) from None
        return operation.parse(response, call_info(trailing or (), sent=request_id))

    def _channel(self) -> grpc.aio.Channel:
        """Returns the channel, opened at the first call: grpc.aio binds it to the event loop running then.

        Raises:
            Cancelled: the client is closed.
        """
        if self._closed:
            raise closed()
        if self._opened is None:
            if self._credentials is None:
                self._opened = grpc.aio.insecure_channel(self._target, options=self._arguments)
            else:
                self._opened = grpc.aio.secure_channel(self._target, self._credentials, options=self._arguments)
        return self._opened


def _cancellations() -> int:
    """Returns how often this task was cancelled: grpc.aio ends the calls of a closed channel as if it had been."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class _FinalStatus:
    """The status with which the server ended a stream.

    If the server ends a stream while a request is being written, grpc.aio takes the failed write for the end of the
    call: it reports an INTERNAL of its own before, or in place of, the server's status (seen in 1.85.1, in most streams
    that were rejected at once). The callback runs for each of the two, so the server's can be recognised and kept.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall[bytes, R]) -> None:
        self._call = call
        self._arrived = asyncio.Event()
        self._error: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._keep)

    async def instead_of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Returns the server's status if `error` is not it; after a second without one, `error`."""
        if not _is_failed_write(error):
            return error
        try:
            await asyncio.wait_for(self._arrived.wait(), timeout=1.0)
        except TimeoutError:
            return error
        return self._error or error

    def _keep(self, _call: object) -> None:
        error = grpc.aio.AioRpcError(
            _result(self._call.code()),
            trailing_metadata=_result(self._call.trailing_metadata()),
            details=_result(self._call.details()),
        )
        if not _is_failed_write(error):
            self._error = error
            self._arrived.set()


def _is_failed_write(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == "Internal error from Core"


def _result(coroutine: Coroutine[object, None, T]) -> T:
    """Returns the result of a coroutine that never waits, such as those that read the status of an ended call."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError("The call has no status although it has ended.")


class _Source(Source[AsyncIterator[Message]]):
    """Requests of a stream, consumed by gRPC's task."""

    async def messages(self) -> AsyncIterator[bytes]:
        while (message := await self._next()) is not None:
            yield message

    async def _next(self) -> bytes | None:
        try:
            return self.serialized(await anext(self.requests))
        except StopAsyncIteration:
            return None
        except BaseException as error:  # raised again in the caller's task
            if isinstance(error, asyncio.CancelledError) and _cancellations():
                raise  # gRPC ends its task
            self.failure = error
            return None
