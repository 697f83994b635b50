from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image as Pillow

from twinsight_core.engine import Engine
from twinsight_core.errors import DeadlineExceeded, InvalidImage, Overloaded
from twinsight_core.executors.base import Executor
from twinsight_core.images import CheckedImage, Limits
from twinsight_core.packages import shipped_packages
from twinsight_server.calls.call import Call
from twinsight_server.inference.batcher import Batcher
from twinsight_server.inference.models import ServedModel
from twinsight_server.inference.pipeline import Picture, Pipeline
from twinsight_server.metrics import Metrics

MAX_BATCH = 4

DECODE = "twinsight_core.images.from_pixels"


class Means:
    """An executor that answers each picture's mean, when `go` is set; remembers the largest it was asked for."""

    name = "means"
    is_single_threaded = False

    def __init__(self, *, on_host: bool) -> None:
        self.on_host = on_host
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()

    def lanes(self) -> Sequence[Executor]:
        return [self]

    def prepare(self, *batch_sizes: int) -> None:
        del batch_sizes

    def compute(self, images: np.ndarray) -> np.ndarray:
        self.busy.set()
        assert self.go.wait(30)
        means: np.ndarray = images.mean(axis=(1, 2, 3), dtype=np.float32)
        return means[:, None]


@pytest.fixture(params=[True, False], ids=["on the host", "on a device"])
def executor(request: pytest.FixtureRequest) -> Means:
    return Means(on_host=request.param)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def model(executor: Means, metrics: Metrics) -> Iterator[ServedModel]:
    (package,) = (one for one in shipped_packages() if one.name == "base")
    engine = Engine(executor, package.card.preprocessing, answer_shape=(1,), buckets=(1, 2, MAX_BATCH))
    batcher = Batcher("m", engine, metrics, queue_size=20, wait_s=0.001)
    batcher.start()
    yield ServedModel(package, engine, batcher)
    executor.go.set()
    batcher.close()


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    made = Pipeline(decoders=2, limits=Limits())
    yield made
    made.close()


def grey(level: int) -> Picture:
    out = io.BytesIO()
    Pillow.new("RGB", (8, 8), (level, level, level)).save(out, "PNG")
    return Picture(out.getvalue())


def call() -> Call:
    return Call("test", None)


def test_each_picture_gets_its_own_answer_in_order(pipeline: Pipeline, model: ServedModel) -> None:
    levels = [(n * 7) % 256 for n in range(50)]
    answers = pipeline.infer(model, [grey(level) for level in levels], call())
    assert [float(one[0]) for one in answers if isinstance(one, np.ndarray)] == levels


def test_a_broken_picture_fails_alone(pipeline: Pipeline, model: ServedModel) -> None:
    good, bad, other = pipeline.infer(model, [grey(1), Picture(b"junk"), grey(2)], call())
    assert isinstance(bad, InvalidImage)
    assert isinstance(good, np.ndarray)
    assert isinstance(other, np.ndarray)


def test_no_pictures_give_no_answers(pipeline: Pipeline, model: ServedModel) -> None:
    assert pipeline.infer(model, [], call()) == []


def test_a_large_call_has_two_batches_in_work_and_leaves_room_for_others(
    pipeline: Pipeline, model: ServedModel, executor: Means, metrics: Metrics
) -> None:
    executor.go.clear()
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(pipeline.infer, model, [grey(n) for n in range(100)], call())
        assert executor.busy.wait(30)
        assert metrics.registry.get_sample_value("twinsight_queued_images", {"model": "m"}) == 2 * MAX_BATCH
        small = pool.submit(pipeline.infer, model, [grey(200)], call())
        executor.go.set()
        (answer,) = small.result(30)
        assert isinstance(answer, np.ndarray)
        assert len(large.result(30)) == 100


def test_a_batch_size_over_the_queue_size_does_not_ask_for_room_that_never_comes(
    pipeline: Pipeline, model: ServedModel, metrics: Metrics
) -> None:
    batcher = Batcher("narrow", model.engine, metrics, queue_size=3, wait_s=0)
    batcher.start()
    narrow = ServedModel(model.package, model.engine, batcher)
    answers = pipeline.infer(narrow, [grey(n) for n in range(10)], call())
    assert [float(one[0]) for one in answers if isinstance(one, np.ndarray)] == list(range(10))
    batcher.close()


def test_a_call_without_room_is_refused_before_anything_is_decoded(
    pipeline: Pipeline, model: ServedModel, metrics: Metrics
) -> None:
    mine = call()
    with model.batcher.room(20, call()), pytest.raises(Overloaded):
        pipeline.infer(model, [grey(1)], mine)
    assert mine.stages().keys() == {"total"}
    assert metrics.registry.get_sample_value("twinsight_queued_images", {"model": "m"}) == 0


def test_a_call_ends_at_its_deadline_and_gives_its_room_back(
    pipeline: Pipeline, model: ServedModel, executor: Means, metrics: Metrics
) -> None:
    executor.go.clear()
    mine = Call("late", deadline=call().started + 0.2)
    with pytest.raises(DeadlineExceeded):
        pipeline.infer(model, [grey(1), grey(2)], mine)
    executor.go.set()
    assert metrics.registry.get_sample_value("twinsight_queued_images", {"model": "m"}) == 0
    (answer,) = pipeline.infer(model, [grey(9)], call())
    assert isinstance(answer, np.ndarray)


@pytest.mark.parametrize("also", [DECODE, "twinsight_server.inference.pipeline.log.exception"])
def test_an_unforeseen_failure_in_decoding_keeps_to_its_picture_even_if_it_can_not_be_logged(
    also: str, pipeline: Pipeline, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> np.ndarray:
        raise MemoryError

    for failing in (DECODE, also):
        monkeypatch.setattr(failing, broken)
    bad, good = pipeline.infer(model, [Picture(np.zeros((2, 2, 3), np.uint8)), grey(3)], call())
    assert getattr(bad, "reason", "") == "DECODE_FAILED"
    assert isinstance(good, np.ndarray)
    assert model.batcher.is_idle


def test_a_picture_that_takes_long_keeps_nobody_waiting(
    pipeline: Pipeline, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, begun, go = CheckedImage.decode, threading.Event(), threading.Event()
    niceness: list[int] = []

    def decode(checked: CheckedImage) -> np.ndarray:
        if checked.is_slow:
            niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            begun.set()
            assert go.wait(60)
        return right(checked)

    monkeypatch.setattr(CheckedImage, "decode", decode)
    out = io.BytesIO()
    Pillow.new("L", (3000, 2000), 77).save(out, "PNG", compress_level=1)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(pipeline.infer, model, [Picture(out.getvalue())], call())
        assert begun.wait(60)
        for level in (1, 2):
            (answer,) = pipeline.infer(model, [grey(level)], call())
            assert isinstance(answer, np.ndarray)
            assert float(answer[0]) == level
        assert not slow.done()
        go.set()
        (answer,) = slow.result(60)
    assert isinstance(answer, np.ndarray)
    assert float(answer[0]) == 77
    assert niceness == [min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)]
