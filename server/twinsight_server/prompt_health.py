"""Health's calls, which need no token, wait for their message in a few places.

grpcio gives each call a thread that waits for its message. Whoever opened calls and sent none could keep all threads,
and neither health nor anybody else would be answered. So only a few wait at the same time, and where one more comes,
the one that has waited longest is ended: an honest question comes with its call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, TypeVar, cast

import grpc

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

MOST_WAITING = 16
"""A quarter of the threads that the server has to spare."""

_HEALTH = "/grpc.health.v1.Health/"


class PromptHealth(grpc.ServerInterceptor):
    """Asks health's servicers through the few places. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[grpc.ServicerContext, None] = {}  # in the order in which they came

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[RequestT, ResponseT] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT] | None:
        """Wraps what answers a question after health; its servicer runs before the message has come."""
        handler = continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_HEALTH):
            return handler
        answer: Callable[[Iterator[RequestT], grpc.ServicerContext], Iterator[ResponseT]]
        if handler.unary_unary is not None:
            answer = partial(self._answered, handler.unary_unary)
        elif handler.unary_stream is not None:
            # grpcio gives such a servicer a function that sends, instead of taking an iterator from it.
            answer = cast("Callable[..., Iterator[ResponseT]]", _Watch(self, handler.unary_stream))
        else:
            return handler
        return grpc.stream_stream_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def message(self, requests: Iterator[RequestT], context: grpc.ServicerContext) -> RequestT | None:
        """Waits for the message of a call; None: the call is over."""
        with self._lock:
            longest = next(iter(self._waiting)) if len(self._waiting) >= MOST_WAITING else None
            if longest is not None:
                del self._waiting[longest]
            self._waiting[context] = None
        if longest is not None:
            longest.cancel()
        try:
            return next(requests, None)
        except grpc.RpcError:
            return None
        finally:
            with self._lock:
                self._waiting.pop(context, None)

    def _answered(
        self,
        answer: Callable[[RequestT, grpc.ServicerContext], ResponseT],
        requests: Iterator[RequestT],
        context: grpc.ServicerContext,
    ) -> Iterator[ResponseT]:
        if (message := self.message(requests, context)) is not None:
            yield answer(message, context)


class _Watch(Generic[RequestT, ResponseT]):
    """`Watch`, which holds no thread while nothing changes."""

    experimental_non_blocking = True

    def __init__(self, prompt: PromptHealth, answer: Callable[..., object]) -> None:
        self._prompt = prompt
        self._answer = answer

    def __call__(
        self,
        requests: Iterator[RequestT],
        context: grpc.ServicerContext,
        send_response_callback: Callable[[ResponseT | None], None],
    ) -> None:
        if (message := self._prompt.message(requests, context)) is None:
            send_response_callback(None)
        else:
            self._answer(message, context, send_response_callback)
