"""Unary calls that would only be refused, turned away before their message is read.

A call that comes when every place is taken costs what an answered one does in gRPC alone: a thread is woken for it, its
message, tens or thousands of kilobytes of picture, is received, copied and parsed, and the thread is woken again. Under
overload that is taken from the calls that are answered. So such a call is answered by the thread that receives calls,
as one whose requests are a stream of which nothing is read: the rest of its message stays on the caller's side. The
caller, the metrics and the logs are told the same as by a refusal further in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import grpc

from twinsight_server.calls import Gate

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
ResultT = TypeVar("ResultT")
P = ParamSpec("P")

_OURS = "/twinsight."


class Door(grpc.ServerInterceptor):
    """Turns calls of the product's own services away while the gate takes none."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._here = _Here()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[RequestT, ResponseT] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT] | None:
        """Returns what answers the call, or what turns it away."""
        handler = continuation(handler_call_details)
        if (
            handler is None
            or handler.request_streaming
            or handler.response_streaming
            or self._gate.takes_calls
            or not handler_call_details.method.startswith(_OURS)
        ):
            return handler
        method = handler_call_details.method.rpartition("/")[2]

        def turn_away(_messages: Iterator[RequestT], context: grpc.ServicerContext) -> ResponseT:
            return self._gate.turn_away(context, method)

        # grpcio's own way of choosing the thread, which it takes from no other place.
        turn_away.experimental_thread_pool = self._here  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(turn_away)


class _Here(ThreadPoolExecutor):
    """Runs what it is given in the thread that gives it, at once."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)

    def submit(self, fn: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs) -> Future[ResultT]:
        """Returns a future that is done."""
        done: Future[ResultT] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as of every executor, the future has it
            done.set_exception(error)
        return done
