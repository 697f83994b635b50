"""The health service: whether the server serves, told to whoever asks or watches.

A message to a watcher leaves only when its connection takes it, and one that takes nothing holds up whoever sends. So
nobody sends under a lock that others need, nor in a thread that anybody waits for:

1. A question is answered from memory.
2. What changes is noted, and watchers are told by a few threads of their own, of each only the newest, one message at a
   time. A watcher that does not take its message within a second is cut off.
3. There are only so many watchers, and nothing of what they asked is kept.

(grpcio's own servicer sends under its one lock: a watcher that takes nothing ends health for all, and keeps the server
from stopping; and it keeps the name of every service that was ever watched.)
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
        send: sends a message, and returns once it has left, or the call is over.
        told: the status that it was told last; None: none yet.
        is_being_told: whether a thread is at it.
    """

    knows: bool
    context: grpc.ServicerContext
    send: Callable[[health_pb2.HealthCheckResponse], None]
    told: _Status | None = None
    is_being_told: bool = False


class HealthService(health_pb2_grpc.HealthServicer):
    """`grpc.health.v1.Health`; NOT_SERVING until it is told otherwise. May be used from any thread.

    Args:
        services: their full names; "" is the server as a whole. All are as healthy as it.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = frozenset(services)
        self._lock = threading.Lock()
        self._serving = False
        self._stopped = False
        self._watchers: set[_Watcher] = set()
        self._senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="health")

    def tell(self, *, serving: bool) -> None:
        """Says from now on that the server serves, or does not."""
        with self._lock:
            if not self._stopped:
                self._set(serving=serving)

    def stop(self) -> None:
        """Says for good that it does not serve."""
        with self._lock:
            self._stopped = True
            self._set(serving=False)

    def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Answers for one service."""
        if request.service not in self._services:
            _abort(context, grpc.StatusCode.NOT_FOUND, "There is no such service here.")
        return health_pb2.HealthCheckResponse(status=self._status(knows=True))

    def Watch(  # type: ignore[override]  # grpcio hands in what sends, where the servicer asks for that
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send: Callable[[health_pb2.HealthCheckResponse], None],
    ) -> None:
        """Tells of one service now, and whenever it changes; SERVICE_UNKNOWN where there is none of its name."""
        watcher = _Watcher(request.service in self._services, context, send)
        with self._lock:
            is_full = len(self._watchers) >= MOST_WATCHERS
            if not is_full:
                self._watchers.add(watcher)
        if is_full:
            _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "Health is watched by as many as may.")
        if not context.add_callback(partial(self._over, watcher)):
            self._over(watcher)
            return
        with self._lock:
            self._tell(watcher)

    def _set(self, *, serving: bool) -> None:
        """Holds the lock."""
        self._serving = serving
        for watcher in self._watchers:
            self._tell(watcher)

    def _status(self, *, knows: bool) -> _Status:
        if not knows:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        return health_pb2.HealthCheckResponse.SERVING if self._serving else health_pb2.HealthCheckResponse.NOT_SERVING

    def _tell(self, watcher: _Watcher) -> None:
        """Has a watcher told what it does not know yet. Holds the lock."""
        if not watcher.is_being_told and watcher.told != self._status(knows=watcher.knows):
            watcher.is_being_told = True
            self._senders.submit(self._send, watcher)

    def _send(self, watcher: _Watcher) -> None:
        while True:
            with self._lock:
                status = self._status(knows=watcher.knows)
                if watcher not in self._watchers or watcher.told == status:
                    watcher.is_being_told = False
                    return
            cut_off = threading.Timer(_SEND_S, watcher.context.cancel)
            cut_off.daemon = True
            cut_off.start()
            try:
                watcher.send(health_pb2.HealthCheckResponse(status=status))
            except Exception:  # noqa: BLE001 - whatever it is, nobody can be told there
                self._over(watcher)
            finally:
                cut_off.cancel()
            watcher.told = status

    def _over(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watchers.discard(watcher)


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, details: str) -> NoReturn:
    context.abort(code, details)
    raise AssertionError("the context has raised")
