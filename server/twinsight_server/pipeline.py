"""Pictures of one call to a model's answers: decoded on a pool, batched with other calls', answered one by one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

import numpy as np
import structlog

from twinsight_core import images
from twinsight_core.errors import TwinsightError
from twinsight_core.images import Limits, Region
from twinsight_server.calls import Call, deadline_exceeded
from twinsight_server.models import ServedModel

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
        """Starts the decoding threads.

        Args:
            decoders: how many.
            limits: which pictures are refused.
        """
        self._pool = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._limits = limits

    def infer(self, model: ServedModel, pictures: Sequence[Picture], call: Call) -> list[np.ndarray | TwinsightError]:
        """Runs a model on pictures, each on its own.

        Two batches of a call are in work at once: one computes while the next is decoded, and a large call leaves the
        decoders and the queue to others in between.

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
        if len(pictures) == 1 and model.batcher.is_idle:
            return [self._infer_here(model, pictures[0], call)]
        at_once = min(len(pictures), 2 * model.batcher.max_batch, model.batcher.queue_size)
        answers: list[np.ndarray | TwinsightError] = []
        in_work: deque[Future[Future[np.ndarray] | TwinsightError]] = deque()
        with model.batcher.room(at_once, call):
            for picture in pictures:
                if len(in_work) == at_once:
                    answers.append(self._decoded_answer(in_work.popleft(), call))
                in_work.append(self._begin(model, picture, call))
            answers += [self._decoded_answer(one, call) for one in in_work]
        return answers

    def close(self) -> None:
        """Finishes what is being decoded and stops the threads."""
        self._pool.shutdown()

    def _infer_here(self, model: ServedModel, picture: Picture, call: Call) -> np.ndarray | TwinsightError:
        """Runs the model on a lone picture in the caller's thread, where the model has nothing else in work."""
        with model.batcher.room(1, call):
            model.batcher.announce()
            return self._answer(self._decode(model, picture, call, time.monotonic(), here=True), call)

    def _begin(self, model: ServedModel, picture: Picture, call: Call) -> Future[Future[np.ndarray] | TwinsightError]:
        model.batcher.announce()
        try:
            return self._pool.submit(self._decode, model, picture, call, time.monotonic())
        except BaseException:
            model.batcher.give_up()
            raise

    def _decode(
        self, model: ServedModel, picture: Picture, call: Call, since: float, *, here: bool = False
    ) -> Future[np.ndarray] | TwinsightError:
        """Decodes one picture and queues it, or computes it `here`; an error keeps to this picture."""
        start = time.monotonic()
        try:
            call.check_alive()
            pixels = self._pixels(picture, model)
        except TwinsightError as error:
            model.batcher.give_up()
            return error
        except BaseException:
            model.batcher.give_up()
            log.exception("a picture failed in decoding", request_id=call.request_id)
            return TwinsightError("Decoding failed on this picture.", reason="DECODE_FAILED")
        call.record("queue", start - since)
        call.record("decode", time.monotonic() - start)
        return model.batcher.submit_here(pixels, call) if here else model.batcher.submit(pixels, call)

    def _pixels(self, picture: Picture, model: ServedModel) -> np.ndarray:
        to = model.package.card.preprocessing
        if isinstance(picture.source, bytes):
            return images.decode(picture.source, to, limits=self._limits, region=picture.region)
        return images.from_pixels(picture.source, to, limits=self._limits, region=picture.region)

    def _decoded_answer(
        self, decoding: Future[Future[np.ndarray] | TwinsightError], call: Call
    ) -> np.ndarray | TwinsightError:
        try:
            queued = decoding.result(call.remaining_s())
        except FutureTimeoutError:
            raise deadline_exceeded() from None
        return self._answer(queued, call)

    def _answer(self, queued: Future[np.ndarray] | TwinsightError, call: Call) -> np.ndarray | TwinsightError:
        if isinstance(queued, TwinsightError):
            call.check_alive()
            return queued
        try:
            return queued.result(call.remaining_s())
        except FutureTimeoutError:
            raise deadline_exceeded() from None
        except TwinsightError:
            raise
        except Exception:  # noqa: BLE001 - the batcher tried it alone and logged why; the neighbours are answered
            return TwinsightError("The model failed on this picture.", reason="COMPUTE_FAILED")
