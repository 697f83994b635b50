"""Pictures of one call to a model's answers: decoded, batched with other calls', answered one by one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from twinsight_core import images
from twinsight_core.errors import TwinsightError
from twinsight_core.images import Limits, Region
from twinsight_server.calls import Call, deadline_exceeded
from twinsight_server.models import ServedModel
from twinsight_server.turns import Answer

log = structlog.stdlib.get_logger("twinsight.pipeline")


@dataclass(frozen=True)
class Picture:
    """A picture of a request, not decoded yet.

    Attributes:
        source: a whole encoded file, or pixels [height, width, 3] uint8.
        region: the part to look at; None: all.
    """

    source: bytes | np.ndarray
    region: Region | None = None


class Pipeline:
    """Decodes pictures and runs models on them."""

    def __init__(self, *, decoders: int, limits: Limits) -> None:
        """Starts the threads that decode for devices; on the host the models' lanes decode what they compute.

        Args:
            decoders: how many.
            limits: which pictures are refused.
        """
        self._pool = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._limits = limits

    def infer(self, model: ServedModel, pictures: Sequence[Picture], call: Call) -> list[Answer]:
        """Runs a model on pictures, each on its own.

        So many of a call are in work at once that every lane has a batch, and a device a second one: a large call
        leaves the decoders and the queue to others in between.

        Args:
            model: runs on them.
            pictures: any number.
            call: whose they are; gets the times of decode, queue and compute.

        Returns:
            For each picture, in order, the model's answer (`twinsight_core.models.tasks`), or InvalidImage.

        Raises:
            Overloaded: the queue has no room for them, and the call does not wait for it.
            Cancelled, DeadlineExceeded: nobody waits for the answer any more.
        """
        at_once = min(len(pictures), model.batcher.at_once)
        answers: list[Answer] = []
        in_work: deque[Future[Answer]] = deque()
        with model.batcher.room(at_once, call):
            if len(pictures) == 1:
                return [_answer(self._begin(model, pictures[0], call, alone=True), call)]
            for picture in pictures:
                if len(in_work) == at_once:
                    answers.append(_answer(in_work.popleft(), call))
                in_work.append(self._begin(model, picture, call))
            answers += [_answer(one, call) for one in in_work]
        return answers

    def close(self) -> None:
        """Finishes what is being decoded and stops the threads."""
        self._pool.shutdown()

    def _begin(self, model: ServedModel, picture: Picture, call: Call, *, alone: bool = False) -> Future[Answer]:
        """Puts a picture in work; one that is `alone` in its call is computed here where the model is idle."""
        future: Future[Answer] = Future()
        load = partial(self._load, model, picture, call)
        if alone and model.batcher.infer_alone(load, call, future):
            return future
        if model.batcher.on_host:
            model.batcher.submit(load, call, future)
            return future
        model.batcher.announce()
        try:
            self._pool.submit(_decode, model, load, call, future, time.monotonic())
        except BaseException:
            model.batcher.give_up()
            raise
        return future

    def _load(self, model: ServedModel, picture: Picture, call: Call) -> np.ndarray:
        """Returns a picture's pixels at the model's size; what goes wrong keeps to this picture."""
        to = model.package.card.preprocessing
        try:
            if isinstance(picture.source, bytes):
                return images.decode(picture.source, to, limits=self._limits, region=picture.region)
            return images.from_pixels(picture.source, to, limits=self._limits, region=picture.region)
        except TwinsightError:
            raise
        except BaseException as error:
            log.exception("a picture failed in decoding", request_id=call.request_id)
            raise TwinsightError("Decoding failed on this picture.", reason="DECODE_FAILED") from error


def _decode(
    model: ServedModel, load: Callable[[], np.ndarray], call: Call, future: Future[Answer], since: float
) -> None:
    """Decodes one picture for a device and queues it."""
    start = time.monotonic()
    try:
        call.check_alive()
        pixels = load()
    except TwinsightError as error:
        model.batcher.give_up()
        future.set_result(error)
        return
    call.record("queue", start - since)
    call.record("decode", time.monotonic() - start)
    model.batcher.submit(lambda: pixels, call, future, announced=True)


def _answer(future: Future[Answer], call: Call) -> Answer:
    try:
        answer = future.result(call.remaining_s())
    except FutureTimeoutError:
        raise deadline_exceeded() from None
    except TwinsightError:
        raise
    except Exception:  # noqa: BLE001 - the batcher tried it alone and logged why; the neighbours are answered
        return TwinsightError("The model failed on this picture.", reason="COMPUTE_FAILED")
    if isinstance(answer, TwinsightError):
        call.check_alive()
    return answer
