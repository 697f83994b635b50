"""How operations travel: over gRPC here, in memory in `twinsight_client.testing`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from twinsight_client.channel import ChannelOptions, Tls, channel_arguments
from twinsight_client.errors import Cancelled, TwinsightClientError
from twinsight_client.operations import Operation
from twinsight_client.results import CallInfo
from twinsight_client.retry import Attempts, RetryPolicy
from twinsight_client.status import call_info, error_from_call
from twinsight_client.streams import Flow
from twinsight_client.token import Bearer, Token

T = TypeVar("T")
R = TypeVar("R", bound=Message)
A = TypeVar("A")


class Transport(Protocol):
    """Sends operations and returns their answers."""

    def call(self, operation: Operation[R, A], *, timeout_s: float, request_id: str) -> A:
        """Returns the answer.

        Raises:
            TwinsightClientError: the call failed as a whole.
        """
        ...

    def stream(
        self, flow: Flow[T, R, A], requests: Iterator[Message], *, timeout_s: float | None, request_id: str
    ) -> Iterator[A]:
        """Yields the answer to each of `requests`, in order; what `requests` raises comes after the last answer.

        Raises:
            TwinsightClientError: the call failed as a whole.
        """
        ...

    def close(self) -> None:
        """Ends the connection; safe to call again."""
        ...


class GrpcTransport:
    """A gRPC channel that tries again where that is safe. May be shared by threads.

    Args:
        target: HOST:PORT, or whatever else gRPC resolves.
        tls: None: plain text.
        token: says who calls; None: nothing does.
        options: limits and habits of the connection.
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
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        arguments = channel_arguments(target, options, tls)
        if tls is None:
            self._channel = grpc.insecure_channel(target, options=arguments)
        else:
            self._channel = grpc.secure_channel(target, tls.credentials(), options=arguments)
        self._retry = retry
        self._bearer = Bearer(token, target=target, tls=tls, allow_plaintext=options.allow_plaintext_token)
        self._sleep = sleep
        self._clock = clock
        self._closed = False

    def call(self, operation: Operation[R, A], *, timeout_s: float, request_id: str) -> A:
        """Sends once, and again where that is safe and can help."""
        attempts = Attempts(self._retry, operation.repeat, timeout_s=timeout_s, clock=self._clock)
        while True:
            try:
                return self._once(operation, timeout_s=attempts.remaining_s(), request_id=request_id)
            except TwinsightClientError as error:
                wait_s = attempts.wait_after_s(error)
                if wait_s is None:
                    raise
            self._sleep(wait_s)

    def stream(
        self, flow: Flow[T, R, A], requests: Iterator[Message], *, timeout_s: float | None, request_id: str
    ) -> Iterator[A]:
        """Sends as the server has room and yields as it answers."""
        source = _Source(requests)
        method = self._channel.stream_stream(
            flow.method,
            request_serializer=serialized,
            response_deserializer=flow.response.FromString,
        )
        metadata = self._bearer.metadata(request_id=request_id)
        try:
            call = method(source.messages(), timeout=timeout_s, metadata=metadata)
        except ValueError:
            if self._closed:
                raise closed() from None
            raise
        info = CallInfo(request_id=request_id)
        try:
            for response in call:
                yield flow.parse(response, info)
        except grpc.RpcError as error:
            raise error_from_call(error, request_id=request_id) from None
        finally:
            # A caller that stops early leaves the server working for nobody otherwise; no effect on a finished call.
            call.cancel()
        if source.failure is not None:
            raise source.failure

    def close(self) -> None:
        """Closes the channel; calls that run, and those made after it, end with `Cancelled`."""
        self._closed = True
        self._channel.close()

    def _once(self, operation: Operation[R, A], *, timeout_s: float, request_id: str) -> A:
        method = self._channel.unary_unary(
            operation.method,
            request_serializer=serialized,
            response_deserializer=operation.response.FromString,
        )
        metadata = self._bearer.metadata(request_id=request_id)
        try:
            response, call = method.with_call(operation.request, timeout=timeout_s, metadata=metadata)
        except ValueError:
            if self._closed:
                raise closed() from None
            raise
        except grpc.RpcError as error:
            # The client's errors are the whole story; gRPC's own would triple every traceback.
            raise error_from_call(error, request_id=request_id) from None
        return operation.parse(response, call_info(call.trailing_metadata() or (), sent=request_id))


def closed(*, request_id: str = "") -> Cancelled:
    """Returns the error of a call whose client was closed; `request_id` where the call had left."""
    return Cancelled("The client is closed.", reason="CLIENT_CLOSED", request_id=request_id)


def serialized(message: Message) -> bytes:
    """Returns the bytes of a message of any class."""
    return message.SerializeToString()


class _Source:
    """Requests of a stream, drawn by gRPC's thread: what they raise is kept, since gRPC would only log it.

    Attributes:
        failure: what the requests raised.
    """

    def __init__(self, requests: Iterator[Message]) -> None:
        self._requests = requests
        self.failure: Exception | None = None

    def messages(self) -> Iterator[Message]:
        try:
            yield from self._requests
        except Exception as error:  # noqa: BLE001  # raised again in the caller's thread
            self.failure = error
