"""Pictures of one call to a model's answers: decoded, batched with other calls', answered one by one."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import structlog

from twinsight_core import images
from twinsight_core.errors import Cancelled, DeadlineExceeded, TwinsightError
from twinsight_core.host.cores import use_all_cores
from twinsight_core.images import Limits, Region
from twinsight_server.calls.call import Call, deadline_exceeded
from twinsight_server.inference.fair_pool import FairPool
from twinsight_server.inference.models import ServedModel
from twinsight_server.inference.turns import Answer, due_of

log = structlog.stdlib.get_logger("twinsight.pipeline")

T = TypeVar("T")

_NICE = 10
"""A tenth of what a thread of the usual priority gets where both want a core."""


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
    """Decodes pictures and runs models on them.

    On the host the models' lanes decode what they compute, but for pictures that take long: a lane that was at one
    would keep others waiting, and its batch. Those are decoded aside, on what the others leave of the cores.
    """

    def __init__(self, *, decoders: int, limits: Limits) -> None:
        """Starts the threads that decode for devices, and those for what takes long.

        Args:
            decoders: how many.
            limits: which pictures are refused.
        """
        self._pool = FairPool(decoders, "decode", initializer=use_all_cores)
        self._aside = FairPool(max(1, decoders // 2), "decode-slow", initializer=_give_way)
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
        if not pictures:
            return []
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
        self._pool.close()
        self._aside.close()

    def _begin(self, model: ServedModel, picture: Picture, call: Call, *, alone: bool = False) -> Future[Answer]:
        """Puts a picture in work; one that is `alone` in its call is computed here where the model is idle."""
        future: Future[Answer] = Future()
        try:
            decode, is_slow = _guarded(partial(self._checked, model, picture), call)
        except TwinsightError as error:
            future.set_result(error)
            return future
        load = partial(_guarded, decode, call)
        if not is_slow:
            if alone and model.batcher.infer_alone(load, call, future):
                return future
            if model.batcher.on_host:
                model.batcher.submit(load, call, future)
                return future
        model.batcher.announce()
        try:
            pool = self._aside if is_slow else self._pool
            due = due_of(call)
            pool.submit(model.name, due, partial(_decode, model, load, call, future, due=due, since=time.monotonic()))
        except BaseException:
            model.batcher.give_up()
            raise
        return future

    def _checked(self, model: ServedModel, picture: Picture) -> tuple[Callable[[], np.ndarray], bool]:
        """Returns what makes a picture's pixels at the model's size, and whether that takes long.

        Raises:
            InvalidImage: it is refused unread.
        """
        to = model.package.card.preprocessing
        if isinstance(picture.source, bytes):
            checked = images.check(picture.source, to, limits=self._limits, region=picture.region)
            return checked.decode, checked.is_slow
        return partial(images.from_pixels, picture.source, to, limits=self._limits, region=picture.region), False


def _give_way() -> None:
    """Lets this thread have what others leave of the cores."""
    use_all_cores()
    if sys.platform == "linux":  # elsewhere it would be the whole process
        os.nice(_NICE)


def _guarded(work: Callable[[], T], call: Call) -> T:
    """Returns what is made of a picture; what goes wrong keeps to this picture."""
    try:
        return work()
    except TwinsightError:
        raise
    except BaseException as error:
        log.exception("a picture failed in decoding", request_id=call.request_id)
        raise TwinsightError("Decoding failed on this picture.", reason="DECODE_FAILED") from error


def _decode(
    model: ServedModel, load: Callable[[], np.ndarray], call: Call, future: Future[Answer], *, due: float, since: float
) -> None:
    """Decodes one picture away from the lanes and queues it."""
    start = time.monotonic()
    try:
        call.check_alive()
        pixels = load()
    except TwinsightError as error:
        model.batcher.give_up(is_dropped=isinstance(error, (Cancelled, DeadlineExceeded)))
        future.set_result(error)
        return
    call.record("queue", start - since)
    call.record("decode", time.monotonic() - start)
    model.batcher.submit(lambda: pixels, call, future, announced=True, due=due)


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
