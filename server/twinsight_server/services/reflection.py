"""Server reflection for authenticated callers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from twinsight_server.calls.gate import Gate


class GuardedReflection(reflection.ReflectionServicer):
    """Describes the services to callers with a valid token; its streams go through the gate like any other."""

    def __init__(self, gate: Gate, service_names: Sequence[str]) -> None:
        super().__init__(service_names)
        self._gate = gate

    def ServerReflectionInfo(  # type: ignore[override]  # the stubs join the asyncio server's
        self, request_iterator: Iterator[reflection_pb2.ServerReflectionRequest], context: grpc.ServicerContext
    ) -> Iterator[reflection_pb2.ServerReflectionResponse]:
        """Answers queries about the services."""
        method = "ServerReflectionInfo"
        with self._gate.stream(context, method) as stream:
            for request in request_iterator:
                with self._gate.question(stream, method):
                    answers = list(super().ServerReflectionInfo(iter((request,)), context))
                yield from answers
                self._gate.answered(stream)
