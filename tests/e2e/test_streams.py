from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from e2e.conftest import Reflected, config, counted, until
from twinsight_core.executors.base import Executor
from twinsight_server.app import Server
from twinsight_server.calls.call import Call


def test_draining_ends_open_streams_and_lets_a_call_in_work_finish(
    tmp_path: Path, cache_dir: Path, photos: dict[str, bytes]
) -> None:
    made = Server(config(tmp_path, cache_dir, drain_s=60.0))
    made.start()
    engine = made.models.get("").engine
    right, busy, go = engine._computed, threading.Event(), threading.Event()

    def held(images: np.ndarray, executor: Executor) -> np.ndarray:
        busy.set()
        assert go.wait(60)
        return right(images, executor)

    api, over = Reflected(made.address), threading.Event()
    message = api.message("EmbedStreamRequest", images=[{"encoded": photos["coffee"]}])

    def one_and_then_silence() -> Iterator[object]:
        yield message
        over.wait(60)

    stream = api.stream("InferenceService", "EmbedStream")(one_and_then_silence(), timeout=60)
    assert len(next(stream).results) == 1
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(engine, "_computed", held)
        call = pool.submit(api.call, "InferenceService", "Embed", images=[{"encoded": photos["coffee"]}])
        assert busy.wait(60)
        stopped = pool.submit(made.stop)
        with pytest.raises(grpc.RpcError):  # well before the 60 s that calls have to finish
            next(stream)
        assert not stopped.done()
        go.set()
        assert len(call.result(60).results) == 1
        stopped.result(60)
    over.set()
    api.close()


def test_messages_of_a_stream_wait_where_a_call_would_be_refused(
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
    message = api.message("EmbedStreamRequest", images=[image] * 4)  # all the room there is
    open_stream = api.stream("InferenceService", "EmbedStream")
    with ThreadPoolExecutor(3) as pool:
        call = pool.submit(api.call, "InferenceService", "Embed", images=[image])
        assert busy.wait(60)
        streams = [pool.submit(lambda: list(open_stream(iter([message] * 2), timeout=60))) for _ in range(2)]
        # The call, and the message for which there is a slot but no room.
        until(lambda: counted(own, "twinsight_calls_in_flight") == 2)
        until(lambda: counted(own, "twinsight_open_streams") == 2)
        go.set()
        assert len(call.result(60).results) == 1
        for stream in streams:
            assert [[one.WhichOneof("result") for one in answer.results] for answer in stream.result(60)] == [
                ["embedding"] * 4
            ] * 2
    api.close()


def test_a_stream_that_waits_for_its_turn_is_told_that_the_server_drains(
    tmp_path: Path, cache_dir: Path, photos: dict[str, bytes]
) -> None:
    made = Server(config(tmp_path, cache_dir, max_calls=1, drain_s=60.0))
    made.start()
    engine = made.models.get("").engine
    right, busy, go = engine._computed, threading.Event(), threading.Event()

    def held(images: np.ndarray, executor: Executor) -> np.ndarray:
        busy.set()
        assert go.wait(60)
        return right(images, executor)

    api = Reflected(made.address)
    image = {"encoded": photos["coffee"]}
    message = api.message("EmbedStreamRequest", images=[image])
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(engine, "_computed", held)
        call = pool.submit(api.call, "InferenceService", "Embed", images=[image])
        assert busy.wait(60)
        stream = pool.submit(lambda: list(api.stream("InferenceService", "EmbedStream")(iter([message]), timeout=60)))
        until(lambda: counted(made, "twinsight_open_streams") == 1)
        stopped = pool.submit(made.stop)
        with pytest.raises(grpc.RpcError) as caught:
            stream.result(30)
        go.set()
        assert len(call.result(60).results) == 1
        stopped.result(60)
    api.close()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_stream_whose_caller_leaves_during_a_message_counts_as_cancelled(
    own: Server, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = own.models.get("").engine
    right, busy, go = engine._computed, threading.Event(), threading.Event()
    gone = threading.Event()

    def held(images: np.ndarray, executor: Executor) -> np.ndarray:
        busy.set()
        assert go.wait(60)
        return right(images, executor)

    class Watched(Call):
        def cancel(self) -> None:
            super().cancel()
            gone.set()

    monkeypatch.setattr(engine, "_computed", held)
    monkeypatch.setattr("twinsight_server.calls.gate.Call", Watched)
    api = Reflected(own.address)
    message = api.message("EmbedStreamRequest", images=[{"encoded": photos["coffee"]}])
    stream = api.stream("InferenceService", "EmbedStream")(iter([message]), timeout=60)
    assert busy.wait(60)
    stream.cancel()
    assert gone.wait(60)
    go.set()
    until(lambda: counted(own, "twinsight_calls_total", method="EmbedStream", code="CANCELLED") == 1)
    api.close()


def test_a_stream_whose_caller_leaves_between_messages_frees_its_place(own: Server, photos: dict[str, bytes]) -> None:
    api, over = Reflected(own.address), threading.Event()
    message = api.message("EmbedStreamRequest", images=[{"encoded": photos["coffee"]}])

    def one_and_then_silence() -> Iterator[object]:
        yield message
        over.wait(60)

    stream = api.stream("InferenceService", "EmbedStream")(one_and_then_silence(), timeout=60)
    next(stream)
    assert counted(own, "twinsight_open_streams") == 1
    assert counted(own, "twinsight_calls_in_flight") == 0
    stream.cancel()
    until(lambda: counted(own, "twinsight_open_streams") == 0)
    over.set()
    api.close()


def test_messages_of_an_open_stream_are_counted_timed_and_failures_logged(
    own: Server, photos: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "twinsight.calls")
    api, over = Reflected(own.address), threading.Event()
    images = [{"encoded": photos["coffee"]}, {"encoded": b"bad"}]

    def two_and_then_silence() -> Iterator[object]:
        yield api.message("EmbedStreamRequest", images=images)
        yield api.message("EmbedStreamRequest", model="nope", images=images)
        over.wait(60)

    def told() -> tuple[float, ...]:
        return (
            *(counted(own, "twinsight_messages_total", method="EmbedStream", code=one) for one in ("OK", "NOT_FOUND")),
            *(
                counted(own, "twinsight_items_total", method="EmbedStream", outcome=one)
                for one in ("OK", "INVALID_ARGUMENT")
            ),
            counted(own, "twinsight_message_seconds_count", method="EmbedStream"),
            counted(own, "twinsight_stage_seconds_count", stage="compute") - computed,
            counted(own, "twinsight_failed_total", reason="MODEL_NOT_FOUND"),
        )

    computed = counted(own, "twinsight_stage_seconds_count", stage="compute")
    with capture_logs() as logged:
        stream = api.stream("InferenceService", "EmbedStream")(two_and_then_silence(), timeout=60)
        answered = [next(stream), next(stream)]
        assert [answer.error.code for answer in answered] == [0, grpc.StatusCode.NOT_FOUND.value[0]]
        assert told() == (1, 1, 1, 1, 1, 1, 1)
        assert counted(own, "twinsight_calls_total", method="EmbedStream", code="OK") == 0
        over.set()
        assert list(stream) == []
        until(lambda: counted(own, "twinsight_calls_total", method="EmbedStream", code="OK") == 1)
    assert told() == (1, 1, 1, 1, 1, 1, 1)  # nothing is counted again with the stream
    message, call = (line for line in logged if line.get("method") == "EmbedStream")
    assert (message["event"], message["reason"], message["items"]) == ("message", "MODEL_NOT_FOUND", {})
    assert (call["event"], call["items"]) == ("call", {"OK": 1, "INVALID_ARGUMENT": 1})
    assert call["total_ms"] > call["compute_ms"] > 0
    api.close()
