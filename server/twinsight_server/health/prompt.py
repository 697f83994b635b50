"""Limits how many health calls, which need no token, wait for their message.

grpcio gives each call a thread that waits for its message. A client that opened calls and sent no messages could hold
all threads, and neither health nor any other call would be answered. So only a few may wait for long: beyond that, the
calls that have waited longest are ended after a moment. A well-behaved client sends the message with the call, so its
calls are answered however many arrive at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar, cast

import grpc

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

MOST_WAITING = 16
"""Calls that may wait longer than a moment: a quarter of the server's spare threads."""

_MOMENT_S = 0.1

_HEALTH = "/grpc.health.v1.Health/"


class PromptHealth(grpc.ServerInterceptor):
    """Runs health calls within this limit. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[grpc.ServicerContext, float] = {}  # since when, in order of arrival
        self._thinning = False

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[RequestT, ResponseT] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT] | None:
        """Wraps the handler of a health call, so that it runs before the message has arrived."""
        handler = continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_HEALTH):
            return handler
        reading, writing = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary is not None:
            # The one response leaves with the status, so no thread waits for it.
            return grpc.stream_unary_rpc_method_handler(
                partial(self._answered, handler.unary_unary), request_deserializer=reading, response_serializer=writing
            )
        if handler.unary_stream is not None:
            # grpcio passes such a servicer a function to send with, and takes no iterator from it.
            watch = cast("Callable[..., Iterator[ResponseT]]", _Watch(self, handler.unary_stream))
            return grpc.stream_stream_rpc_method_handler(
                watch, request_deserializer=reading, response_serializer=writing
            )
        return handler

    def message(self, requests: Iterator[RequestT], context: grpc.ServicerContext) -> RequestT:
        """Waits for the message of a call; ends it by `context.abort` if there is none."""
        with self._lock:
            self._waiting[context] = time.monotonic()
            self._thin_later()
        try:
            return next(requests)
        except (StopIteration, grpc.RpcError):
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "A health call needs one message, and none was sent.")
            raise
        finally:
            with self._lock:
                self._waiting.pop(context, None)

    def _thin_later(self) -> None:
        """Schedules `_thin` if too many calls wait. The caller holds the lock."""
        if len(self._waiting) > MOST_WAITING and not self._thinning:
            timer = threading.Timer(_MOMENT_S, self._thin)
            timer.daemon = True
            with suppress(RuntimeError):  # no thread can be started: the next call tries again
                timer.start()
                self._thinning = True

    def _thin(self) -> None:
        with self._lock:
            since = time.monotonic() - _MOMENT_S
            too_many = list(self._waiting.items())[: max(0, len(self._waiting) - MOST_WAITING)]
            ended = [context for context, came in too_many if came <= since]
            for context in ended:
                del self._waiting[context]
            self._thinning = False
            self._thin_later()
        for context in ended:
            context.cancel()

    def _answered(
        self,
        answer: Callable[[RequestT, grpc.ServicerContext], ResponseT],
        requests: Iterator[RequestT],
        context: grpc.ServicerContext,
    ) -> ResponseT:
        return answer(self.message(requests, context), context)


class _Watch(Generic[RequestT, ResponseT]):
    """The handler of `Watch`, which holds no thread while nothing changes."""

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
        self._answer(self._prompt.message(requests, context), context, send_response_callback)
