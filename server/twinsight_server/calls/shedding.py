"""Unary calls that would only be refused, turned away before their message is read.

A call that comes when every place is taken, or every thread by calls on their way to one, costs what an answered one
does in gRPC alone: a thread is woken for it, its message, tens or thousands of kilobytes of picture, is received,
copied and parsed, and the thread is woken again. Under overload that is taken from the calls that are answered. So such
a call is answered by the thread that receives calls, as one whose requests are a stream of which nothing is read: the
rest of its message stays on the caller's side. The caller, the metrics and the logs are told the same as by a refusal
further in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import grpc

from twinsight_server.calls.gate import Gate
from twinsight_server.calls.threads import CallThreads

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
ResultT = TypeVar("ResultT")
P = ParamSpec("P")


class LoadShedding(grpc.ServerInterceptor):
    """Turns calls away while the gate takes none, or no thread is free; to stand before what wraps their handlers."""

    def __init__(self, gate: Gate, threads: CallThreads, methods: Collection[str]) -> None:
        """Takes the gate.

        Args:
            gate: refuses.
            threads: answer what is not turned away.
            methods: the unary methods that go through it, as `/package.Service/Method`.
        """
        self._gate = gate
        self._threads = threads
        self._methods = frozenset(methods)
        self._here = _Here()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[RequestT, ResponseT] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT] | None:
        """Returns what answers the call, or what turns it away."""
        path = handler_call_details.method
        if (self._gate.takes_calls and not self._threads.are_taken) or path not in self._methods:
            return continuation(handler_call_details)
        if not self._gate.knows(handler_call_details.invocation_metadata):
            # To find out who it is may take signature checks, a hundred times as long as the rest: not in this thread.
            return continuation(handler_call_details)
        method = path.rpartition("/")[2]

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
