"""Calls that a server ends, as one does that drains: streams that are idle, and what reaches it too late."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest

from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight_client import AsyncClient, Client, RetryPolicy, Unavailable

from .conftest import WireServer, make_status

pytestmark = pytest.mark.client


@dataclass
class Draining:
    """A server that answers EmbedStream, and whose streams a test can end.

    Attributes:
        address: HOST:PORT.
        streams: those that were begun.
        over: lets the requests of a stream end.
    """

    address: str = ""
    streams: queue.SimpleQueue[grpc.ServicerContext] = field(default_factory=queue.SimpleQueue)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(
        self, requests: Iterator[inference_pb.EmbedStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[inference_pb.EmbedStreamResponse]:
        for request in requests:
            yield inference_pb.EmbedStreamResponse(results=[inference_pb.EmbedResult() for _ in request.images])
            self.streams.put(context)

    def pictures(self) -> Iterator[bytes]:
        """One, and then nothing for a long time."""
        yield b"picture"
        self.over.wait(timeout=30)


@pytest.fixture
def draining() -> Iterator[Draining]:
    made = Draining()
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    handler: grpc.RpcMethodHandler[inference_pb.EmbedStreamRequest, inference_pb.EmbedStreamResponse]
    handler = grpc.stream_stream_rpc_method_handler(
        made.answer,
        inference_pb.EmbedStreamRequest.FromString,
        inference_pb.EmbedStreamResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler("twinsight.v1.InferenceService", {"EmbedStream": handler})
    server.add_generic_rpc_handlers((handlers,))
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    made.over.set()
    server.stop(grace=None).wait()


def test_an_idle_stream_that_the_server_ends_is_unavailable(draining: Draining) -> None:
    with Client(draining.address) as client:
        batches = client.embed_stream(draining.pictures(), batch_size=1)
        assert len(next(batches)) == 1
        draining.streams.get(timeout=30).cancel()
        with pytest.raises(Unavailable, match=r"^The server ended the call: ") as raised:
            next(batches)
        assert raised.value.request_id


def test_the_same_from_asyncio(draining: Draining) -> None:
    async def story() -> None:
        async with AsyncClient(draining.address) as client:
            batches = client.embed_stream(draining.pictures(), batch_size=1)
            assert len(await anext(batches)) == 1
            (await asyncio.to_thread(draining.streams.get, timeout=30)).cancel()
            with pytest.raises(Unavailable, match=r"^The server ended the call: "):
                await anext(batches)
            draining.over.set()

    asyncio.run(story())


def test_a_call_that_the_server_ends_unread_is_sent_again_where_that_is_safe(wire: WireServer) -> None:
    ended = make_status("CANCELLED", "")
    with Client(wire.address, retry=RetryPolicy(first_wait_s=0.001)) as client:
        wire.refusals.append(ended)
        assert client.list_models()
        wire.refusals.append(ended)
        with pytest.raises(Unavailable, match=r"^The server ended the call: "):
            client.delete_items("photos", ["a"])
        assert wire.methods() == ["ListModels", "ListModels", "DeleteItems"]

    async def story() -> None:
        async with AsyncClient(wire.address, retry=RetryPolicy(first_wait_s=0.001)) as client:
            wire.refusals.append(ended)
            assert await client.list_models()

    asyncio.run(story())
