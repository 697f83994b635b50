from __future__ import annotations

import gc
import logging
import queue
import re
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from e2e import errors
from e2e.conftest import Dynamic, Reflected, config, counted, health_stub, until
from twinsight_core.engine import Engine
from twinsight_core.executors.base import Executor
from twinsight_server.app import SERVICES, Server

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_stub(channel).Check(request, timeout=30).status


def test_every_service_is_serving_after_start(server: Server) -> None:
    assert [health(server.address, service) for service in ("", *SERVICES)] == [SERVING] * 4


def test_health_says_not_serving_and_calls_are_refused_before_start(tmp_path: Path, cache_dir: Path) -> None:
    warming, go = threading.Event(), threading.Event()

    class Slow(Engine):
        def warm_up(self) -> None:
            warming.set()
            assert go.wait(60)
            super().warm_up()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinsight_server.inference.models.Engine", Slow)
        made = Server(config(tmp_path, cache_dir))
        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(made.start)
            assert warming.wait(60)
            assert health(made.address) == NOT_SERVING
            api = Reflected(made.address)
            with pytest.raises(grpc.RpcError) as caught:
                api.call("ModelService", "ListModels")
            go.set()
            started.result(60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert errors.reason(errors.status_of(caught.value)) == "STARTING"
        assert health(made.address) == SERVING
        api.close()
        made.stop()


def test_health_follows_the_test_inference(
    own: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = own.models.get("").engine

    def broken(images: np.ndarray, _: Executor) -> np.ndarray:
        raise RuntimeError(f"device lost with {len(images)} pictures")

    with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL):
        patch.setattr(engine, "_computed", broken)
        assert not own.canary.check()
        assert health(own.address) == NOT_SERVING
    assert own.canary.check()
    assert health(own.address) == SERVING


def test_a_model_that_answers_wrongly_is_not_healthy(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = own.models.get("").engine
    right = engine._computed
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_computed", lambda images, executor: -right(images, executor))
        assert not own.canary.check()
    assert own.canary.check()


def test_an_unforeseen_error_tells_nothing(
    own: Server, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("secret: /etc/passwd")

    monkeypatch.setattr("twinsight_server.services.inference.infer_pictures", broken)
    api = Reflected(own.address)
    with pytest.raises(grpc.RpcError) as caught:
        api.call("InferenceService", "Embed", images=[{"encoded": photos["coffee"]}])
    api.close()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "Internal error; see the server's log for this request id."
    assert "secret" not in str(errors.status_of(caught.value))


def test_a_full_server_refuses_at_once_and_says_when_to_come_again(
    own: Server, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = own.models.get("").engine
    right, busy, go = engine._computed, threading.Event(), threading.Event()

    def held(images: np.ndarray, executor: Executor) -> np.ndarray:
        busy.set()
        assert go.wait(60)
        return right(images, executor)

    monkeypatch.setattr(engine, "_computed", held)
    api = Reflected(own.address)
    image = {"encoded": photos["coffee"]}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(api.call, "InferenceService", "Embed", images=[image])
        assert busy.wait(60)
        with pytest.raises(grpc.RpcError) as queue_full:
            api.call("InferenceService", "Embed", images=[image] * 4)
        second = pool.submit(api.call, "InferenceService", "Embed", images=[image] * 3)
        until(lambda: counted(own, "twinsight_queued_images", model="base") == 4)
        with pytest.raises(grpc.RpcError) as calls_full:
            api.call("ModelService", "ListModels")
        go.set()
        assert len(first.result(60).results) == 1
        assert len(second.result(60).results) == 3
    api.close()
    for caught, reason in ((queue_full, "QUEUE_FULL"), (calls_full, "CALLS_FULL")):
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert errors.reason(errors.status_of(caught.value)) == reason
        assert errors.retry_after_s(caught.value) > 0
    assert calls_full.value.details() == "Too many concurrent calls (limit 2); retry after 0.1 s."


def test_a_deadline_that_passes_ends_the_call(
    own: Server, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = own.models.get("").engine
    right, go = engine._computed, threading.Event()

    def held(images: np.ndarray, executor: Executor) -> np.ndarray:
        assert go.wait(60)
        return right(images, executor)

    monkeypatch.setattr(engine, "_computed", held)
    api = Reflected(own.address)
    request = api.message("EmbedRequest", images=[{"encoded": photos["coffee"]}])
    with pytest.raises(grpc.RpcError) as caught:
        api.method("InferenceService", "Embed")(request, timeout=0.3)
    go.set()
    api.close()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: counted(own, "twinsight_calls_total", method="Embed", code="DEADLINE_EXCEEDED") == 1)


def test_those_who_watch_do_not_hold_up_the_end(tmp_path: Path, cache_dir: Path) -> None:
    made = Server(config(tmp_path, cache_dir, drain_s=3600.0))
    made.start()
    api, over = Reflected(made.address), threading.Event()
    watch = health_stub(api.channel).Watch(health_pb2.HealthCheckRequest(), timeout=300)
    assert next(watch).status == SERVING

    def one_question_and_then_silence() -> Iterator[object]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        over.wait(300)

    stub: Dynamic = reflection_pb2_grpc.ServerReflectionStub
    look = stub(api.channel).ServerReflectionInfo(one_question_and_then_silence(), timeout=300)
    next(look)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(made.stop).result(60)
    assert next(watch).status == NOT_SERVING
    over.set()
    api.close()


def test_bytes_that_are_no_message_do_not_hold_up_the_end(tmp_path: Path, cache_dir: Path) -> None:
    made = Server(config(tmp_path, cache_dir, drain_s=1.0))
    made.start()
    with grpc.insecure_channel(made.address) as channel, ThreadPoolExecutor(1) as pool:
        stream: Dynamic = channel.stream_stream("/twinsight.v1.InferenceService/EmbedStream")
        for _ in range(100):  # left to itself, gRPC forgets to end a few of them
            with pytest.raises(grpc.RpcError) as caught:
                list(stream(iter((b"\xff" * 20,)), timeout=30))
            assert errors.reason(errors.status_of(caught.value)) == "MESSAGE_MALFORMED"
        until(lambda: not made.gate._in_flight)
        pool.submit(made.stop).result(60)


def test_unary_calls_of_bytes_that_are_no_message_hold_no_thread(tmp_path: Path, cache_dir: Path) -> None:
    made = Server(config(tmp_path, cache_dir, max_calls=2, max_streams=2))
    made.start()
    api = Reflected(made.address)
    for path in ("/twinsight.v1.ModelService/ListModels", "/grpc.health.v1.Health/Check"):
        method: Dynamic = api.channel.unary_unary(path)
        for _ in range(8):  # a connection has four calls at once: left to itself, gRPC never ends these
            with pytest.raises(grpc.RpcError) as caught:
                method(b"\xff" * 20, timeout=30)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert errors.reason(errors.status_of(caught.value)) == "MESSAGE_MALFORMED"
    assert api.call("ModelService", "ListModels").models
    api.close()
    made.stop()


def test_rejections_give_their_places_in_the_connection_back_without_garbage_collection(
    tmp_path: Path, cache_dir: Path
) -> None:
    made = Server(config(tmp_path, cache_dir, max_calls=2, max_streams=2))
    made.start()
    api = Reflected(made.address)
    no_picture = {"image": {"encoded": b"no picture"}}
    new: dict[str, object] = {"collection": {"id": "c", "dimension": 2}}
    of_items: list[tuple[str, str, dict[str, object]]] = [
        ("InferenceService", "Embed", {"images": [{"encoded": b"no picture"}]}),
        ("InferenceService", "Compare", {"pairs": [{"left": no_picture, "right": no_picture}]}),
        ("InferenceService", "Compare", {"pairs": [{"left": no_picture}]}),
        ("CollectionService", "UpsertItems", {"collection": "c", "items": [{"id": ""}]}),
        ("CollectionService", "Search", {"collection": "c", "queries": [{"item_id": "gone"}], "top_k": 1}),
        ("CollectionService", "GetItems", {"collection": "c", "ids": ["gone"]}),
    ]
    whole: list[tuple[str, str, dict[str, object], grpc.StatusCode]] = [
        ("InferenceService", "Embed", {}, grpc.StatusCode.INVALID_ARGUMENT),
        ("InferenceService", "Embed", {"model": "gone"}, grpc.StatusCode.NOT_FOUND),
        ("CollectionService", "GetCollection", {"collection": "gone"}, grpc.StatusCode.NOT_FOUND),
        ("CollectionService", "CreateCollection", new, grpc.StatusCode.ALREADY_EXISTS),
    ]
    api.call("CollectionService", "CreateCollection", **new)
    of_no_model = api.message("EmbedStreamRequest", model="gone", images=[no_picture["image"]])
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):  # a connection has four calls at once
            for service, method, fields in of_items:
                (result,) = api.call(service, method, **fields).results
                assert result.HasField("error")
            for service, method, fields, code in whole:
                with pytest.raises(grpc.RpcError) as caught:
                    api.call(service, method, **fields)
                assert caught.value.code() is code
                del caught  # it leads to this frame, and to the call
            unbound = api.message("IngestItemsRequest", collection="c", ingest_id="i", batch=1)
            unbound.items.add(id="a", image=no_picture["image"])
            (answer,) = api.stream("CollectionService", "IngestItems")(iter([unbound]), timeout=30)
            assert errors.reason(answer.error) == "COLLECTION_UNBOUND"
            (answer,) = api.stream("InferenceService", "EmbedStream")(iter([of_no_model]), timeout=30)
            assert errors.reason(answer.error) == "MODEL_NOT_FOUND"
    finally:
        gc.enable()
    api.close()
    made.stop()


def test_metadata_of_up_to_sixteen_kibibytes_is_always_taken_and_more_never(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        check = health_stub(channel).Check
        for size in (8_500, 12_000, 15_500) * 10:
            assert check(health_pb2.HealthCheckRequest(), metadata=[("x-large", "a" * size)], timeout=30)
        for _ in range(10):
            with pytest.raises(grpc.RpcError, match="metadata size exceeds") as caught:
                check(health_pb2.HealthCheckRequest(), metadata=[("x-large", "a" * 16_500)], timeout=30)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_connection_leaves_threads_to_the_others(tmp_path: Path, cache_dir: Path) -> None:
    made = Server(config(tmp_path, cache_dir, max_calls=1, max_streams=3))
    made.start()
    # Channels of one process share a connection unless they are told not to.
    greedy, modest = (
        grpc.insecure_channel(made.address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(2)
    )
    stub: Dynamic = reflection_pb2_grpc.ServerReflectionStub
    over = threading.Event()

    def one_question_and_then_silence() -> Iterator[object]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        over.wait(60)

    look = stub(greedy).ServerReflectionInfo
    # More than the server has threads; as many as it has places for streams are answered, the others refused.
    looks = [look(one_question_and_then_silence(), timeout=60) for _ in range(100)]
    answered: queue.SimpleQueue[object] = queue.SimpleQueue()

    def read(one: Dynamic) -> None:
        answered.put(next(one))

    with ThreadPoolExecutor(100) as pool:
        for one in looks:
            pool.submit(read, one)
        for _ in range(3):
            answered.get(timeout=30)
        for _ in range(20):
            request = health_pb2.HealthCheckRequest()
            assert health_stub(modest).Check(request, timeout=30).status == SERVING
        assert answered.empty()
        over.set()
        for one in looks:
            one.cancel()
    greedy.close()
    modest.close()
    made.stop()


def test_an_answer_over_the_limit_is_refused_with_its_reason(tmp_path: Path, cache_dir: Path) -> None:
    made = Server(config(tmp_path, cache_dir, max_message_bytes=32 * 1024))
    made.start()
    api = Reflected(made.address)
    image = {"raw": {"height": 2, "width": 2, "rgb": bytes(12)}}
    calls: dict[str, dict[str, object]] = {
        "Embed": {"images": [image] * 40},
        "Compare": {"pairs": [{"left": {"vector": b"x"}, "right": {"vector": b"x"}}] * 128},
    }
    for method, fields in calls.items():
        with pytest.raises(grpc.RpcError) as caught:
            api.call("InferenceService", method, **fields)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert errors.reason(errors.status_of(caught.value)) == "ANSWER_TOO_LARGE"
    messages = [api.message("EmbedStreamRequest", images=[image] * count) for count in (40, 1)]
    large, small = api.stream("InferenceService", "EmbedStream")(iter(messages), timeout=30)
    api.close()
    made.stop()
    assert errors.reason(large.error) == "ANSWER_TOO_LARGE"
    assert small.results[0].WhichOneof("result") == "embedding"


def test_a_start_that_is_stopped_serves_nothing(tmp_path: Path, cache_dir: Path) -> None:
    made, stopped = Server(config(tmp_path, cache_dir)), threading.Event()
    stopped.set()
    assert not made.start(stopped)
    assert health(made.address) == NOT_SERVING
    made.stop()


def test_metrics_tell_calls_batches_and_compilations(own: Server, photos: dict[str, bytes]) -> None:
    api = Reflected(own.address)
    api.call("InferenceService", "Embed", images=[{"encoded": photos["coffee"]}, {"encoded": b"bad"}])
    api.close()
    with urllib.request.urlopen(f"http://{own.metrics_address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'twinsight_calls_total{code="OK",method="Embed"} 1.0' in text
    assert "twinsight_compilations_after_serving 0.0" in text
    assert "twinsight_healthy 1.0" in text
    assert re.search(r'twinsight_batch_size_count\{model="base"\} \d', text)
    assert 'twinsight_items_total{method="Embed",outcome="OK"} 1.0' in text
    assert 'twinsight_items_total{method="Embed",outcome="INVALID_ARGUMENT"} 1.0' in text
