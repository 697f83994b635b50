"""Runs a model on the pictures of a call: decodes them and batches them with those of other calls."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import structlog

from twinsight_core import images
from twinsight_core.errors import Cancelled, DeadlineExceeded, TwinsightError
from twinsight_core.images import Limits, Region
from twinsight_server.calls.call import Call, deadline_exceeded
from twinsight_server.inference.fair_pool import FairPool
from twinsight_server.inference.models import ServedModel
from twinsight_server.inference.turns import Answer, due_of, fail

log = structlog.stdlib.get_logger("twinsight.pipeline")

T = TypeVar("T")

_NICE = 10
"""Gives a thread a tenth of what one of normal priority gets when both compete for a core."""


@dataclass(frozen=True)
class Picture:
    """A picture of a request, not decoded yet.

    Attributes:
        source: a whole encoded file, or pixels [height, width, 3] uint8.
        region: the part to use; None: all.
    """

    source: bytes | np.ndarray
    region: Region | None = None


class Pipeline:
    """Decodes pictures and runs models on them.

    On the host the models' lanes decode what they compute, except for pictures that take long to decode: these would
    delay the lane's batch and other pictures. They are decoded by separate threads of low priority.
    """

    def __init__(self, *, decoders: int, limits: Limits) -> None:
        """Creates the thread pools: one that decodes for devices, and one for slow pictures.

        Args:
            decoders: threads that decode for devices.
            limits: which pictures are rejected.
        """
        self._pool = FairPool(decoders, "decode")
        self._aside = FairPool(max(1, decoders // 2), "decode-slow", initializer=_lower_priority)
        self._limits = limits

    def infer(self, model: ServedModel, pictures: Sequence[Picture], call: Call) -> list[Answer]:
        """Runs a model on pictures; each has its own result.

        At most `Batcher.at_once` pictures of a call are in flight at once, enough to keep all lanes busy: a large call
        leaves decoders and queue to others in between.

        Args:
            model: the model to run.
            pictures: any number.
            call: the call that they belong to; gets the times of decode, queue and compute.

        Returns:
            For each picture, in order, the model's answer (`twinsight_core.models.tasks`), or its error.

        Raises:
            Overloaded: the queue has no room for them, and the call does not wait for it.
            Cancelled, DeadlineExceeded: nobody waits for the answer any more.
            Unavailable: the server drains, or no thread can be started to decode.
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
        """Finishes decoding and stops the threads."""
        self._pool.close()
        self._aside.close()

    def _begin(self, model: ServedModel, picture: Picture, call: Call, *, alone: bool = False) -> Future[Answer]:
        """Starts work on a picture; one that is `alone` in its call is computed right here if the model is idle."""
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
        """Returns a function that decodes a picture to the model's size, and whether that takes long.

        Raises:
            InvalidImage: it is rejected undecoded.
        """
        to = model.package.card.preprocessing
        if isinstance(picture.source, bytes):
            checked = images.check(picture.source, to, limits=self._limits, region=picture.region)
            return checked.decode, checked.is_slow
        return partial(images.from_pixels, picture.source, to, limits=self._limits, region=picture.region), False


def _lower_priority() -> None:
    """Lowers the priority of this thread."""
    if sys.platform == "linux":  # elsewhere this affects the whole process
        os.nice(_NICE)


def _guarded(work: Callable[[], T], call: Call) -> T:
    """Returns the result of `work`; turns any exception into an error of this picture alone."""
    try:
        return work()
    except TwinsightError:
        raise
    except BaseException as error:
        with suppress(Exception):  # without memory, even this may fail
            log.exception("decoding an image failed", request_id=call.request_id)
        raise TwinsightError("Decoding this image failed.", reason="DECODE_FAILED") from error


def _decode(
    model: ServedModel, load: Callable[[], np.ndarray], call: Call, future: Future[Answer], *, due: float, since: float
) -> None:
    """Decodes one picture outside the lanes and queues it."""
    start = time.monotonic()
    try:
        call.check_alive()
        pixels = load()
        call.record("queue", start - since)
        call.record("decode", time.monotonic() - start)
    except TwinsightError as error:
        model.batcher.give_up(is_dropped=isinstance(error, (Cancelled, DeadlineExceeded)))
        future.set_result(error)
    except Exception as error:  # noqa: BLE001 - as in `_guarded`
        model.batcher.give_up()
        future.set_exception(error)
    else:
        try:
            model.batcher.submit(lambda: pixels, call, future, announced=True, due=due)
        except Exception as error:  # noqa: BLE001 - as in `_guarded`
            fail(future, error)


def _answer(future: Future[Answer], call: Call) -> Answer:
    try:
        answer = future.result(call.remaining_s())
    except FutureTimeoutError:
        raise deadline_exceeded() from None
    except TwinsightError:
        raise
    except Exception:  # noqa: BLE001 - logged where it happened; the other pictures have answers
        return TwinsightError("The model failed on this image.", reason="COMPUTE_FAILED")
    if isinstance(answer, TwinsightError):
        call.check_alive()
    return answer
