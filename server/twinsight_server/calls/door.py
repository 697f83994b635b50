"""Before a message: whom the server does not know is refused before anything of a message is read.

grpcio asks a servicer of a unary method only once the whole message has come and is parsed. Without this a caller
without a token could have the server hold as many messages of the largest size as it has threads, or hold the threads
themselves by never sending one. (Streams are asked before their first message; `Gate.stream` does that.)

1. `intercept_service` is called in the one thread in which all calls come in, and does there only what costs a digest:
   a caller that is known by it goes on as if nothing stood here.
2. Any other call is answered as a stream of messages is, whose servicer runs before that has come. There, in a
   thread of its own, the token is checked in full, and the call refused, or its message waited for.
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
    """Lets calls to the product's unary methods in; to stand inside of `MalformedMessages`.

    Args:
        guard: knows the callers.
        gate: refuses calls.
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
        """Returns what answers a call: the servicer, or what first asks who calls."""
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
        # The one answer leaves with the status, for which no thread waits: a caller may take nothing.
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
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} takes one message, and none came.")
        return answer(request, context)
