"""The process of the load, on a gRPC server that answers by itself."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from benchmarks.load import Load
from benchmarks.serving import Served
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from PIL import Image

from benchmarks import load
from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import inference_service_pb2 as inference_pb


class _Answering(grpc.GenericRpcHandler):
    """Answers Embed and Search, and refuses every so many calls of Embed.

    Attributes:
        searches: requests as they came.
        refuse_every: 0: none.
    """

    def __init__(self) -> None:
        self.searches: list[collections_pb.SearchRequest] = []
        self.refuse_every = 0
        self._numbers = itertools.count(1)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        ways = {"Embed": self._embed, "Search": self._search}
        way = ways.get(str(handler_call_details.method).rpartition("/")[2])
        return None if way is None else grpc.unary_unary_rpc_method_handler(way)

    def _embed(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if self.refuse_every and not next(self._numbers) % self.refuse_every:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        asked = inference_pb.EmbedRequest.FromString(request)
        results = [inference_pb.EmbedResult() for _ in asked.images]
        return inference_pb.EmbedResponse(results=results).SerializeToString()

    def _search(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        del context
        self.searches.append(collections_pb.SearchRequest.FromString(request))
        return collections_pb.SearchResponse().SerializeToString()


@pytest.fixture
def answering() -> _Answering:
    return _Answering()


@pytest.fixture
def served(answering: _Answering) -> Iterator[Served]:
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    checks = health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_generic_rpc_handlers((answering,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Served(f"127.0.0.1:{port}", 0.0, os.getpid())
    server.stop(None).wait()


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    file = tmp_path / "picture.jpg"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    file.write_bytes(buffer.getvalue())
    return file


def test_pictures_are_counted_and_not_calls(served: Served, jpeg: Path) -> None:
    done = load.run(Load("embed", jpeg, batch=3, concurrency=2, seconds=0.4, warm_up_s=0.1), served)
    assert done["answered"] > 0
    assert done["failed"] == done["refused"] == done["not_started"] == 0
    # Those that end after the window are answered and not part of the rate.
    assert 3 * (done["answered"] - 2) <= done["per_s"] * 0.4 <= 3 * (done["answered"] + 2)
    assert 0 < done["p50_ms"] <= done["p99_ms"] <= done["max_ms"]
    assert done["load_cores"] > 0


def test_refusals_are_timed_apart(served: Served, answering: _Answering, jpeg: Path) -> None:
    answering.refuse_every = 2
    done = load.run(Load("embed", jpeg, concurrency=2, rate=50, seconds=0.4, warm_up_s=0.1), served)
    assert done["answered"] + done["refused"] + done["not_started"] == pytest.approx(20, abs=1)
    assert done["refused"] > 0
    assert 0 < done["refused_p50_ms"] <= done["refused_max_ms"]


def test_a_search_asks_for_what_it_was_told(served: Served, answering: _Answering, tmp_path: Path) -> None:
    queries = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.save(tmp_path / "queries.npy", queries)
    load.run(Load("search", tmp_path / "queries.npy", "bench", batch=2, seconds=0.2, warm_up_s=0, ef=48), served)
    first = answering.searches[0]
    assert (first.collection, first.top_k, first.ef, first.include_metadata) == ("bench", load.TOP_K, 48, False)
    # The fifth query makes no call of two.
    asked = {tuple(np.frombuffer(one.vector, "<f4")) for search in answering.searches for one in search.queries}
    assert asked == {tuple(one) for one in queries[:4]}
