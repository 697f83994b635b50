"""Rejects unauthenticated calls before their message is read.

grpcio runs the servicer of a unary method only once the whole message has arrived and been parsed. So without this a
caller without a token could make the server hold as many messages of the largest size as it has threads, or hold the
threads themselves by never sending one. (For streams, `Gate.stream` checks the token before the first message.)

1. `intercept_service` runs in the one thread that receives all calls, and computes only a digest there: a caller known
   by it passes unchanged.
2. Any other call is handled as a stream of requests, whose servicer runs before the first message. There, in a thread
   of its own, the token is checked in full; then the call is rejected, or its message awaited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import TypeVar

import grpc

from twinsight_core.errors import InvalidInput, Unauthenticated
from twinsight_server.access.guard import Guard
from twinsight_server.calls.gate import OURS, Gate

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Door(grpc.ServerInterceptor):
    """Checks tokens of calls to the product's unary methods; must come after `MalformedMessages`.

    Args:
        guard: identifies the callers.
        gate: rejects calls.
    """

    def __init__(self, guard: Guard, gate: Gate) -> None:
        self._guard = guard
        self._gate = gate
        self._asking = lru_cache(maxsize=128)(self._asked_first)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[RequestT, ResponseT] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT] | None:
        """Returns the handler of a call: its servicer, or one that identifies the caller first."""
        handler = continuation(handler_call_details)
        if (
            handler is None
            or not handler_call_details.method.startswith(OURS)
            or self._guard.knows(handler_call_details.invocation_metadata)
        ):
            return handler
        return self._asking(handler, handler_call_details.method.rpartition("/")[2])

    def _asked_first(
        self, handler: grpc.RpcMethodHandler[RequestT, ResponseT], method: str
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT]:
        if handler.unary_unary is None:
            return handler
        # The one response leaves with the status, so no thread waits for it: the caller may not read it.
        return grpc.stream_unary_rpc_method_handler(
            partial(self._answered, method, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _answered(
        self,
        method: str,
        answer: Callable[[RequestT, grpc.ServicerContext], ResponseT],
        requests: Iterator[RequestT],
        context: grpc.ServicerContext,
    ) -> ResponseT:
        try:
            self._guard.identify(context.invocation_metadata())
            request = next(requests, None)
        except (InvalidInput, Unauthenticated) as error:
            self._gate.refuse(context, method, error)
            raise
        if request is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} needs one message, and none was sent.")
        return answer(request, context)
