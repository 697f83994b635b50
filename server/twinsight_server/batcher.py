"""Pictures of many calls gathered into batches for one model.

1. A call takes room for as many pictures as it has in work at once, before any is decoded; without room it is refused
   at once, and a message of a stream waits. It keeps the room until it is answered.
2. Each picture is announced when it goes to a decoder, and submitted, or given up, when it comes from there.
3. The worker takes what waits. It waits up to `wait_s` for more only while others are being decoded, so a lone call
   never waits.
4. A lone picture of a model with nothing else in work is computed by its caller's own thread: passing it to the worker
   and back would cost two wake-ups, of up to a millisecond each where the processor has gone to sleep.
5. Pictures whose caller is gone or whose deadline has passed are dropped before they reach the device.
6. The test picture behind health goes before all others, as a batch of its own.
7. The engine computes; each picture's future gets its row. A batch that fails is tried again picture by picture, so
   that one that poisons it fails alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import structlog

from twinsight_core.engine import Engine
from twinsight_core.errors import Overloaded, TwinsightError, Unavailable
from twinsight_server.calls import Call
from twinsight_server.metrics import Metrics

log = structlog.stdlib.get_logger("twinsight.batcher")

_MIN_RETRY_S = 0.05


@dataclass(frozen=True)
class _Waiting:
    """A decoded picture in the queue."""

    image: np.ndarray
    call: Call
    future: Future[np.ndarray]
    since: float


class Batcher:
    """The queue and the worker thread of one model."""

    def __init__(self, name: str, engine: Engine, metrics: Metrics, *, queue_size: int, wait_s: float) -> None:
        """Starts the worker.

        Args:
            name: the model's name, for metrics and the thread.
            engine: computes; one thread at a time calls it.
            metrics: where batches are counted.
            queue_size: pictures that calls may have in work at once, all together.
            wait_s: longest wait for a batch to fill.
        """
        self._name = name
        self._engine = engine
        self._metrics = metrics
        self._queue_size = queue_size
        self._wait_s = wait_s
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # the worker alone waits for it
        self._room_freed = threading.Condition(lock)
        self._waiting: deque[_Waiting] = deque()
        self._urgent: deque[_Waiting] = deque()
        self._taken = 0
        self._decoding = 0
        self._computing = False
        self._closed = False
        self._seconds_per_image = 0.0  # moving average, for the time after which to try again
        self._longest_turn_s = 0.0
        metrics.queued.labels(name).set_function(lambda: self._taken)
        self._worker = threading.Thread(target=self._run, name=f"batcher-{name}", daemon=True)
        self._worker.start()

    @property
    def max_batch(self) -> int:
        """Pictures in the largest batch."""
        return self._engine.max_batch

    @property
    def queue_size(self) -> int:
        """Pictures that calls may have in work at once, all together."""
        return self._queue_size

    @contextmanager
    def room(self, count: int, call: Call) -> Iterator[None]:
        """Takes room for `count` pictures at once, for as long as the call is worked on.

        A call that waits for room holds none, and whoever holds some waits for nothing that the call has: so they never
        wait for each other.

        Args:
            count: at most `queue_size`.
            call: is refused, or waits, as it wants.

        Raises:
            Overloaded: there is none; says when there should be.
            Cancelled, DeadlineExceeded: there was none for as long as the caller waited.
            Unavailable: the server drains.
        """
        with self._room_freed:
            while self._closed or self._taken + count > self._queue_size:
                if self._closed:
                    raise _draining()
                if (step_s := call.patience_s()) is not None:
                    self._room_freed.wait(step_s)
                    continue
                self._metrics.refused.labels("QUEUE_FULL").inc()
                raise Overloaded(
                    f"The queue of model `{self._name}` holds {self._taken} of at most {self._queue_size} pictures; "
                    f"{count} more don't fit.",
                    retry_after_s=max(_MIN_RETRY_S, self._taken * self._seconds_per_image / 2),
                )
            self._taken += count
        try:
            yield
        finally:
            with self._room_freed:
                self._taken -= count
                self._room_freed.notify_all()

    def announce(self) -> None:
        """Says that a picture goes to a decoder: `submit` or `give_up` follows."""
        with self._changed:
            self._decoding += 1

    def give_up(self) -> None:
        """Says that an announced picture does not come."""
        with self._changed:
            self._decoding -= 1
            self._changed.notify()

    def submit(self, image: np.ndarray, call: Call) -> Future[np.ndarray]:
        """Queues an announced picture.

        Args:
            image: [height, width, 3] uint8 at the model's size.
            call: whose it is.

        Returns:
            Gets the model's answer, float32; or Cancelled, DeadlineExceeded, Unavailable, or what computing raised.
        """
        one = _Waiting(image, call, Future(), time.monotonic())
        with self._changed:
            self._decoding -= 1
            self._put(one, self._waiting)
        return one.future

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being decoded, waits or is computed."""
        return not (self._decoding or self._waiting or self._computing or self._urgent)

    def submit_here(self, image: np.ndarray, call: Call) -> Future[np.ndarray]:
        """Computes an announced picture in the caller's thread if nothing else is in work, and queues it otherwise.

        Arguments and result as in `submit`.
        """
        one = _Waiting(image, call, Future(), time.monotonic())
        with self._changed:
            self._decoding -= 1
            if self._closed or not self.is_idle:
                self._put(one, self._waiting)
                return one.future
            self._computing = True
        self._compute_wanted([one])
        return one.future

    def submit_urgent(self, image: np.ndarray, call: Call) -> Future[np.ndarray]:
        """Queues a picture ahead of all others and without room or announcement: for the test inference behind health.

        A full queue is load and not sickness, so it must not fail the test. Nor does it share a batch, which would make
        it wait for the others' answers, and have them computed by one program today and another tomorrow. Arguments and
        result as in `submit`.
        """
        one = _Waiting(image, call, Future(), time.monotonic())
        with self._changed:
            self._put(one, self._urgent)
        return one.future

    def longest_turn_s(self) -> float:
        """Returns the longest time that the engine was busy at a stretch since this was last asked."""
        with self._changed:
            longest, self._longest_turn_s = self._longest_turn_s, 0.0
        return longest

    def close(self) -> None:
        """Computes what waits, then stops the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            self._room_freed.notify_all()
        self._worker.join()

    def _put(self, one: _Waiting, queue: deque[_Waiting]) -> None:
        if self._closed:
            one.future.set_exception(_draining())
            return
        queue.append(one)
        self._changed.notify()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._compute_wanted(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Waits for pictures; returns at most the largest bucket, or nothing once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: not self._computing and (self._urgent or self._waiting or self._closed))
            if self._waiting and not self._urgent:
                until = self._waiting[0].since + self._wait_s
                self._changed.wait_for(self._is_full, timeout=max(0.0, until - time.monotonic()))
            if self._urgent:
                self._computing = True
                return [self._urgent.popleft()]
            if not self._waiting:
                return []
            self._computing = True
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._engine.max_batch))]

    def _is_full(self) -> bool:
        """Whether to wait no longer: the largest bucket is full, nothing is being decoded, or something is urgent."""
        full = len(self._waiting) >= self._engine.max_batch
        return full or not self._decoding or self._closed or bool(self._urgent)

    def _is_wanted(self, one: _Waiting) -> bool:
        try:
            one.call.check_alive()
        except TwinsightError as error:
            self._metrics.dropped.labels(self._name).inc()
            one.future.set_exception(error)
            return False
        return True

    def _compute_wanted(self, batch: list[_Waiting]) -> None:
        """Computes what is still wanted of a batch, and says when the engine is free again."""
        start = time.monotonic()
        try:
            self._compute([one for one in batch if self._is_wanted(one)])
        finally:
            with self._changed:
                self._longest_turn_s = max(self._longest_turn_s, time.monotonic() - start)
                self._computing = False
                self._changed.notify()

    def _compute(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        start = time.monotonic()
        try:
            answers = self._engine.infer([one.image for one in batch])
        except Exception as error:
            if len(batch) == 1:
                log.exception("a picture failed in compute", model=self._name, request_id=batch[0].call.request_id)
                batch[0].future.set_exception(error)
                return
            log.exception("a batch failed; its pictures are tried one by one", model=self._name, size=len(batch))
            for one in batch:
                self._compute([one])
            return
        took = time.monotonic() - start
        self._seconds_per_image += 0.1 * (took / len(batch) - self._seconds_per_image)
        self._metrics.batch_size.labels(self._name).observe(len(batch))
        for one, answer in zip(batch, answers, strict=True):
            one.call.record("queue", start - one.since)
            one.call.record("compute", took)
            one.future.set_result(answer)


def _draining() -> Unavailable:
    return Unavailable("The server is shutting down.", reason="DRAINING")
