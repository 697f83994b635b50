"""The health service: reports whether the server serves, on request or continuously.

A message to a watcher leaves only when its connection accepts it, so a connection that accepts nothing blocks the
sender. Therefore nothing is sent under a lock that others need, nor in a thread that anyone waits for:

1. `Check` is answered from memory.
2. Changes are recorded, and a few threads of their own send them to the watchers: only the latest status, one message
   at a time per watcher. A watcher that does not accept its message within a second is cut off.
3. The number of watchers is limited, and the names they ask for are not stored. Those beyond the limit learn nothing,
   and call the server as if there were no health service.

(grpcio's own servicer sends under its one lock: a watcher that accepts nothing stops health for everyone and keeps the
server from stopping. It also keeps the name of every service that was ever watched.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, NoReturn, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

MOST_WATCHERS = 256

_SENDERS = 16
_SEND_S = 1.0

_Status: TypeAlias = Literal[1, 2, 3]  # `HealthCheckResponse.ServingStatus`, for which the stubs have no type


@dataclass(eq=False)
class _Watcher:
    """One call of `Watch`.

    Attributes:
        knows: whether the service that it watches is one of ours.
        context: gRPC's.
        send: sends a message; returns once it has left or the call is over.
        told: the last status sent; None: none yet.
        is_being_told: whether a thread is sending to it.
    """

    knows: bool
    context: grpc.ServicerContext
    send: Callable[[health_pb2.HealthCheckResponse], None]
    told: _Status | None = None
    is_being_told: bool = False


class HealthService(health_pb2_grpc.HealthServicer):
    """`grpc.health.v1.Health`; NOT_SERVING until `tell`. May be used from any thread.

    Args:
        services: their full names; "" is the server as a whole. All have the same status.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = frozenset(services)
        self._lock = threading.Lock()
        self._serving = False
        self._stopped = False
        self._watchers: set[_Watcher] = set()
        self._senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="health")

    def tell(self, *, serving: bool) -> None:
        """Sets whether the server serves."""
        with self._lock:
            if not self._stopped:
                self._set(serving=serving)

    def stop(self) -> None:
        """Sets NOT_SERVING for good."""
        with self._lock:
            self._stopped = True
            self._set(serving=False)

    def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Returns the status of one service."""
        if request.service not in self._services:
            _abort(context, grpc.StatusCode.NOT_FOUND, f"The server has no service `{request.service[:80]}`.")
        return health_pb2.HealthCheckResponse(status=self._status(knows=True))

    def Watch(  # type: ignore[override]  # grpcio passes `send` if the handler asks for it, see `PromptHealth`
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send: Callable[[health_pb2.HealthCheckResponse], None],
    ) -> None:
        """Sends the status of one service now and on every change; SERVICE_UNKNOWN for an unknown name."""
        watcher = _Watcher(request.service in self._services, context, send)
        with self._lock:
            is_full = len(self._watchers) >= MOST_WATCHERS
            if not is_full:
                self._watchers.add(watcher)
        if is_full:
            # By the protocol a client then calls on without watching; any other code means an unhealthy server to it.
            _abort(context, grpc.StatusCode.UNIMPLEMENTED, f"Too many Watch streams (limit {MOST_WATCHERS}).")
        if not context.add_callback(partial(self._over, watcher)):
            self._over(watcher)
            return
        with self._lock:
            self._tell(watcher)

    def _set(self, *, serving: bool) -> None:
        """Sets the status. The caller holds the lock."""
        self._serving = serving
        for watcher in self._watchers:
            self._tell(watcher)

    def _status(self, *, knows: bool) -> _Status:
        if not knows:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        return health_pb2.HealthCheckResponse.SERVING if self._serving else health_pb2.HealthCheckResponse.NOT_SERVING

    def _tell(self, watcher: _Watcher) -> None:
        """Schedules sending the status to a watcher that has not got it yet. The caller holds the lock."""
        if not watcher.is_being_told and watcher.told != self._status(knows=watcher.knows):
            watcher.is_being_told = True
            try:
                self._senders.submit(self._send, watcher)
            except RuntimeError:  # no thread can be started: told at the next test
                watcher.is_being_told = False

    def _send(self, watcher: _Watcher) -> None:
        while True:
            with self._lock:
                status = self._status(knows=watcher.knows)
                if watcher not in self._watchers or watcher.told == status:
                    watcher.is_being_told = False
                    return
            cut_off = threading.Timer(_SEND_S, watcher.context.cancel)
            cut_off.daemon = True
            try:
                cut_off.start()
                watcher.send(health_pb2.HealthCheckResponse(status=status))
            except Exception:  # noqa: BLE001 - whatever it is, this watcher can't be reached any more
                self._over(watcher)
                watcher.context.cancel()  # if it can, it asks again
            finally:
                cut_off.cancel()
            watcher.told = status

    def _over(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watchers.discard(watcher)


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, details: str) -> NoReturn:
    context.abort(code, details)
    raise AssertionError("the context has raised")
