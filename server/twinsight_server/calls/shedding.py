"""Rejects unary calls before their message is read when the server is full.

A call that arrives when every slot is taken, or every thread is busy with calls about to take one, costs as much in
gRPC as one that is answered: a thread is woken for it, its message (tens or thousands of kilobytes of image) is
received, copied and parsed, and the thread is woken again. Under overload the answered calls pay for that. So the
thread that receives calls rejects such a call itself, as one with a stream of requests that is never read: the rest of
its message stays on the caller's side. The caller, the metrics and the logs see the same as after a rejection by
`Gate.call`.
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
    """Rejects calls while the gate accepts none or no thread is free; must come before what wraps their handlers."""

    def __init__(self, gate: Gate, threads: CallThreads, methods: Collection[str]) -> None:
        """Takes the gate.

        Args:
            gate: rejects.
            threads: run all other calls.
            methods: the unary methods that go through the gate, as `/package.Service/Method`.
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
        """Returns the handler of the call, or one that rejects it."""
        path = handler_call_details.method
        if (self._gate.takes_calls and not self._threads.are_taken) or path not in self._methods:
            return continuation(handler_call_details)
        if not self._gate.knows(handler_call_details.invocation_metadata):
            # Identifying the caller may take a signature check, a hundred times as long as the rest: do it elsewhere.
            return continuation(handler_call_details)
        method = path.rpartition("/")[2]

        def turn_away(_messages: Iterator[RequestT], context: grpc.ServicerContext) -> ResponseT:
            return self._gate.turn_away(context, method)

        # The only way in grpcio to choose the thread that runs a handler.
        turn_away.experimental_thread_pool = self._here  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(turn_away)


class _Here(ThreadPoolExecutor):
    """Runs what is submitted at once, in the submitting thread."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)

    def submit(self, fn: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs) -> Future[ResultT]:
        """Runs `fn` and returns a finished future."""
        done: Future[ResultT] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as of every executor, the future has it
            done.set_exception(error)
        return done
