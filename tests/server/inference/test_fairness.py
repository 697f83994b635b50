"""That a model, or a stream, that is flooded leaves the others their turns."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pillow

from twinsight_core.engine import Engine
from twinsight_core.executors.base import Executor
from twinsight_core.images import CheckedImage, Limits, Preprocessing
from twinsight_core.packages import shipped_packages
from twinsight_server.calls.call import Call
from twinsight_server.inference.batcher import Batcher
from twinsight_server.inference.fair_pool import FairPool
from twinsight_server.inference.models import ServedModel
from twinsight_server.inference.pipeline import Picture, Pipeline
from twinsight_server.inference.turns import Answer
from twinsight_server.metrics import Metrics

LANES = 2


class Device:
    """Does what it is given one by one, in the order of coming, once it is let `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.came: list[str] = []
        self._changed = threading.Condition()
        self._done = 0

    def do(self, what: str) -> None:
        with self._changed:
            number = len(self.came)
            self.came.append(what)
            self._changed.notify_all()
        assert self.go.wait(30)
        with self._changed:
            assert self._changed.wait_for(lambda: self._done == number, 30)
            self._done += 1
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Waits until so much has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.came) >= count, 30)


class Sharing:
    """The executor of one model on a device that several share."""

    is_single_threaded = False

    def __init__(self, name: str, device: Device, *, on_host: bool) -> None:
        self.name = name
        self.on_host = on_host
        self._device = device

    def lanes(self) -> Sequence[Executor]:
        return [self] * LANES

    def prepare(self, *batch_sizes: int) -> None:
        del batch_sizes

    def compute(self, images: np.ndarray) -> np.ndarray:
        self._device.do(self.name)
        return np.zeros((len(images), 1), np.float32)


@contextmanager
def serving(name: str, device: Device, *, on_host: bool) -> Iterator[Batcher]:
    executor = Sharing(name, device, on_host=on_host)
    engine = Engine(executor, Preprocessing(height_px=1, width_px=1), answer_shape=(1,), buckets=(1, 2, 4))
    batcher = Batcher(name, engine, Metrics(), queue_size=1000, wait_s=0)
    batcher.start()
    try:
        yield batcher
    finally:
        device.go.set()
        batcher.close()


def put(batcher: Batcher) -> Future[Answer]:
    future: Future[Answer] = Future()
    batcher.submit(lambda: np.zeros((1, 1, 3), np.uint8), Call("test", None), future)
    return future


@pytest.mark.parametrize("on_host", [True, False], ids=["on the host", "on a device"])
def test_a_flooded_model_has_no_more_than_its_lanes_ahead_of_another(on_host: bool) -> None:
    device = Device()
    with serving("flooded", device, on_host=on_host) as flooded, serving("light", device, on_host=on_host) as light:
        futures = [put(flooded) for _ in range(500)]
        device.wait_for(LANES)
        answer = put(light)
        device.wait_for(LANES + 1)
        assert device.came == ["flooded"] * LANES + ["light"]
        device.go.set()
        answer.result(30)
        for one in futures:
            one.result(30)


class HeldDecoder:
    """Decodes for a device in one thread, held at the first picture until `go`; notes the greys as it decodes them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.greys: list[int] = []
        self._go = threading.Event()
        self._begun = threading.Event()
        self._queued = threading.Semaphore(0)
        decode, submit = CheckedImage.decode, FairPool.submit

        def held(checked: CheckedImage) -> np.ndarray:
            pixels = decode(checked)
            self.greys.append(int(pixels[0, 0, 0]))
            self._begun.set()
            assert self._go.wait(30)
            return pixels

        def counted(pool: FairPool, model: str, due: float, work: Callable[[], None]) -> None:
            submit(pool, model, due, work)
            self._queued.release()

        monkeypatch.setattr(CheckedImage, "decode", held)
        monkeypatch.setattr(FairPool, "submit", counted)
        self._pipeline = Pipeline(decoders=1, limits=Limits())
        self._callers = ThreadPoolExecutor(4)

    def put(self, model: ServedModel, greys: Sequence[int], call: Call) -> Future[list[Answer]]:
        """Calls for pictures, and waits until all are queued for decoding and the thread is at the first of all."""
        answers = self._callers.submit(self._pipeline.infer, model, [grey(one) for one in greys], call)
        for _ in greys:
            assert self._queued.acquire(timeout=30)
        assert self._begun.wait(30)
        return answers

    def order(self) -> list[int]:
        """Lets it decode all; returns the greys."""
        self._go.set()
        self._pipeline.close()
        return self.greys

    def close(self) -> None:
        self.order()
        self._callers.shutdown()


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldDecoder]:
    made = HeldDecoder(monkeypatch)
    yield made
    made.close()


@pytest.fixture
def model() -> Iterator[ServedModel]:
    """A model on a device that does everything at once."""
    (package,) = (one for one in shipped_packages() if one.name == "base")
    device = Device()
    device.go.set()
    engine = Engine(Sharing("m", device, on_host=False), package.card.preprocessing, answer_shape=(1,), buckets=(1, 4))
    batcher = Batcher("m", engine, Metrics(), queue_size=100, wait_s=0)
    batcher.start()
    yield ServedModel(package, engine, batcher)
    batcher.close()


def grey(level: int) -> Picture:
    out = io.BytesIO()
    Pillow.new("RGB", (8, 8), (level, level, level)).save(out, "PNG")
    return Picture(out.getvalue())


def unary() -> Call:
    return Call("unary", None)


def test_pictures_of_a_flooded_model_are_decoded_in_turns_with_anothers(
    decoder: HeldDecoder, model: ServedModel
) -> None:
    other = replace(model, package=replace(model.package, name="other"))
    flood = decoder.put(model, range(8), unary())
    light = decoder.put(other, [100, 101], unary())
    assert decoder.order() == [0, 1, 100, 2, 101, 3, 4, 5, 6, 7]
    assert len(light.result(30)) == 2
    assert len(flood.result(30)) == 8


def test_pictures_of_unary_calls_are_decoded_before_those_of_streams(decoder: HeldDecoder, model: ServedModel) -> None:
    stream = decoder.put(model, range(8), Call("stream", None, check_waiting=lambda: None))
    answers = decoder.put(model, [100, 101], unary())
    assert decoder.order() == [0, 100, 101, 1, 2, 3, 4, 5, 6, 7]
    assert len(answers.result(30)) == 2
    assert len(stream.result(30)) == 8


def test_the_time_for_which_a_picture_waited_to_be_decoded_counts_in_the_models_queue(
    decoder: HeldDecoder, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[float] = []
    computed: list[float | None] = []
    queue, submit = FairPool.submit, Batcher.submit

    def noted_queue(pool: FairPool, name: str, due: float, work: Callable[[], None]) -> None:
        decoded.append(due)
        queue(pool, name, due, work)

    def noted_submit(
        batcher: Batcher,
        load: Callable[[], np.ndarray],
        call: Call,
        future: Future[Answer],
        *,
        announced: bool = False,
        due: float | None = None,
    ) -> None:
        computed.append(due)
        submit(batcher, load, call, future, announced=announced, due=due)

    monkeypatch.setattr(FairPool, "submit", noted_queue)
    monkeypatch.setattr(Batcher, "submit", noted_submit)
    answers = decoder.put(model, [1, 2, 3], unary())
    decoder.order()
    assert len(answers.result(30)) == 3
    assert computed == decoded
