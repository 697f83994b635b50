"""One connection of the load: sends a call once, never retries it, and returns the outcome."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health_pb2

from twinsight_client.bench.calls import Reading, Workload
from twinsight_client.bench.outcomes import ANSWERED, outcome_of
from twinsight_client.channel import ChannelOptions, Tls, channel_arguments
from twinsight_client.deadlines import MANAGE_S
from twinsight_client.errors import TwinsightClientError
from twinsight_client.operations import HEALTH_SERVICE
from twinsight_client.results import StageTimes
from twinsight_client.status import call_info, error_from_call
from twinsight_client.token import Bearer


@dataclass(frozen=True)
class Answer:
    """The outcome of one call.

    Attributes:
        begun: when it was sent, in seconds of `time.perf_counter`.
        ended: when its response arrived, likewise.
        outcome: see `outcomes`.
        reading: content of the response; empty if there was none.
        times: times of the server's stages.
        error: error of a failed call.
    """

    begun: float
    ended: float
    outcome: int
    reading: Reading = field(default_factory=Reading)
    times: StageTimes = field(default_factory=StageTimes)
    error: TwinsightClientError | None = None


class Connection:
    """A channel that does not share its TCP connection. It belongs to the running event loop.

    Args:
        target: HOST:PORT of the server.
        tls: None: plain text.
        workload: the calls to send.
        bearer: adds the token; None: no token.
    """

    def __init__(self, target: str, *, tls: Tls | None, workload: Workload, bearer: Bearer | None = None) -> None:
        self._bearer = bearer or Bearer(None, target=target, tls=tls, allow_plaintext=False)
        arguments = [
            *channel_arguments(target, ChannelOptions(), tls),
            # Otherwise gRPC lets channels with the same arguments share one connection.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._channel = (
            grpc.aio.insecure_channel(target, options=arguments)
            if tls is None
            else grpc.aio.secure_channel(target, tls.credentials(), options=arguments)
        )
        # Bytes in and out: requests are built and responses parsed outside the measured time.
        self._method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(workload.method)
        self._workload = workload

    async def open(self, *, request_id: str) -> None:
        """Connects, so that measured calls don't include it.

        Raises:
            TwinsightClientError: the server can't be reached.
        """
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(HEALTH_SERVICE + "Check")
        request = health_pb2.HealthCheckRequest().SerializeToString()
        try:
            await check(request, timeout=MANAGE_S, metadata=self._bearer.metadata(request_id=request_id))
        except grpc.aio.AioRpcError as error:
            raise error_from_call(error, request_id=request_id) from None

    async def send(self, request: bytes, *, request_id: str) -> Answer:
        """Sends one call and returns its outcome."""
        metadata = self._bearer.metadata(request_id=request_id)
        begun = time.perf_counter()
        call = self._method(request, timeout=self._workload.timeout_s, metadata=metadata)
        try:
            data = await call
        except grpc.aio.AioRpcError as failure:
            ended = time.perf_counter()
            error = error_from_call(failure, request_id=request_id)
            return Answer(begun, ended, outcome_of(error), error=error)
        ended = time.perf_counter()
        times = call_info(await call.trailing_metadata()).times
        return Answer(begun, ended, ANSWERED, reading=self._workload.read(data), times=times)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()
