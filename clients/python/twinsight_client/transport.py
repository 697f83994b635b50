"""How operations are sent: over gRPC here, in memory in `twinsight_client.testing`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from twinsight_client.channel import ChannelOptions, Tls, channel_arguments
from twinsight_client.errors import Cancelled, ResourceExhausted, TwinsightClientError, Unavailable
from twinsight_client.operations import Operation
from twinsight_client.results import CallInfo
from twinsight_client.retry import Attempts, RetryPolicy
from twinsight_client.status import call_info, error_from_call
from twinsight_client.streams import Flow
from twinsight_client.token import Bearer, Token

T = TypeVar("T")
R = TypeVar("R", bound=Message)
A = TypeVar("A")
Requests = TypeVar("Requests")


class Transport(Protocol):
    """Sends operations and returns their results.

    Attributes:
        most_bytes: largest message sent; negative: any.
    """

    most_bytes: int

    def call(self, operation: Operation[R, A], *, timeout_s: float, request_id: str) -> A:
        """Returns the result.

        Raises:
            TwinsightClientError: the call failed as a whole.
        """
        ...

    def stream(
        self, flow: Flow[T, R, A], requests: Iterator[Message], *, timeout_s: float | None, request_id: str
    ) -> Iterator[A]:
        """Yields the result of each of `requests`, in order; raises what `requests` raises after the last one.

        Raises:
            TwinsightClientError: the call failed as a whole.
        """
        ...

    def close(self) -> None:
        """Closes the connection; safe to call again."""
        ...


class GrpcTransport:
    """A gRPC channel that retries calls where that is safe. Threads may share it.

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
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        arguments = channel_arguments(target, options, tls)
        if tls is None:
            self._channel = grpc.insecure_channel(target, options=arguments)
        else:
            self._channel = grpc.secure_channel(target, tls.credentials(), options=arguments)
        self.most_bytes = options.max_send_bytes
        self._retry = retry
        self._bearer = Bearer(token, target=target, tls=tls, allow_plaintext=options.allow_plaintext_token)
        self._sleep = sleep
        self._clock = clock
        self._closed = False

    def call(self, operation: Operation[R, A], *, timeout_s: float, request_id: str) -> A:
        """Sends the call, and retries it where that is safe and may help."""
        request = serialized(operation.request, most_bytes=self.most_bytes, request_id=request_id)
        attempts = Attempts(self._retry, operation.repeat, timeout_s=timeout_s, clock=self._clock)
        while True:
            try:
                return self._once(operation, request, timeout_s=attempts.remaining_s(), request_id=request_id)
            except TwinsightClientError as error:
                wait_s = attempts.wait_after_s(error)
                if wait_s is None:
                    raise
            self._sleep(wait_s)

    def stream(
        self, flow: Flow[T, R, A], requests: Iterator[Message], *, timeout_s: float | None, request_id: str
    ) -> Iterator[A]:
        """Sends as the server has room, and yields results as they arrive."""
        source = _Source(requests, most_bytes=self.most_bytes, request_id=request_id)
        method = self._channel.stream_stream(
            flow.method,
            request_serializer=as_given,
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
            raise error_told(error, request_id=request_id, closed_here=self._closed) from None
        finally:
            # Otherwise the server would work on for a caller that stopped early; no effect on a finished call.
            call.cancel()
        source.raise_failure()

    def close(self) -> None:
        """Closes the channel; calls in flight, and later ones, fail with `Cancelled`."""
        self._closed = True
        self._channel.close()

    def _once(self, operation: Operation[R, A], request: bytes, *, timeout_s: float, request_id: str) -> A:
        method = self._channel.unary_unary(
            operation.method,
            request_serializer=as_given,
            response_deserializer=operation.response.FromString,
        )
        metadata = self._bearer.metadata(request_id=request_id)
        try:
            response, call = method.with_call(request, timeout=timeout_s, metadata=metadata)
        except ValueError:
            if self._closed:
                raise closed() from None
            raise
        except grpc.RpcError as error:
            # The client's error says it all; gRPC's own would triple every traceback.
            raise error_told(error, request_id=request_id, closed_here=self._closed) from None
        return operation.parse(response, call_info(call.trailing_metadata() or (), sent=request_id))


def closed(*, request_id: str = "") -> Cancelled:
    """Returns the error of a call on a closed client; `request_id` if the call had been sent."""
    return Cancelled("The client is closed.", reason="CLIENT_CLOSED", request_id=request_id)


def error_told(error: grpc.RpcError, *, request_id: str, closed_here: bool) -> TwinsightClientError:
    """Returns the client's error for a call that failed.

    Args:
        error: gRPC's error.
        request_id: the id that the call was sent with.
        closed_here: whether this client was closed. If not, nobody on this side can have cancelled the call, since its
            caller is waiting for it: the server did. A draining server does: gRPC ends, unread, calls that arrive
            between the last one it accepts and the notice that it accepts no more.
    """
    told = error_from_call(error, request_id=request_id)
    if isinstance(told, Cancelled) and closed_here:
        return closed(request_id=request_id)
    if isinstance(told, Cancelled):
        return Unavailable(
            f"The server ended the call: {told.message}",
            reason=told.reason,
            violations=told.violations,
            request_id=request_id,
        )
    return told


def serialized(message: Message, *, most_bytes: int, request_id: str) -> bytes:
    """Returns the bytes of a message.

    gRPC itself would end a call whose message is too large with a status that looks like the server's.

    Raises:
        ResourceExhausted: there are more than `most_bytes`, unless that is negative.
    """
    sent = message.SerializeToString()
    if 0 <= most_bytes < len(sent):
        raise ResourceExhausted(
            f"The message ({len(sent)} bytes) is larger than max_send_bytes ({most_bytes} bytes); send fewer things "
            "per call.",
            reason="CLIENT_CHECK",
            request_id=request_id,
        )
    return sent


def as_given(sent: bytes) -> bytes:
    """Returns `sent`, which is already serialized: gRPC would call a serializer too late to raise an error."""
    return sent


class Source(Generic[Requests]):
    """Requests of a stream, consumed by gRPC: keeps what they raise, since gRPC would only log it.

    Attributes:
        requests: the requests.
        failure: what they raised.
    """

    def __init__(self, requests: Requests, *, most_bytes: int, request_id: str) -> None:
        self.requests = requests
        self.failure: BaseException | None = None
        self._most_bytes = most_bytes
        self._request_id = request_id

    def serialized(self, message: Message) -> bytes:
        """Returns the bytes of a message; see `serialized`."""
        return serialized(message, most_bytes=self._most_bytes, request_id=self._request_id)

    def raise_failure(self) -> None:
        """Raises what the requests raised, if they did."""
        failure, self.failure = self.failure, None  # it refers to this object, which need not refer to it
        if failure is not None:
            raise failure


class _Source(Source[Iterator[Message]]):
    """Those of the sync client, consumed by gRPC's thread."""

    def messages(self) -> Iterator[bytes]:
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> bytes | None:
        try:
            return self.serialized(next(self.requests))
        except StopIteration:
            return None
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            self.failure = error
            return None
