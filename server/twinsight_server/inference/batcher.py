"""Gathers pictures of many calls into batches for one model.

1. Before anything is decoded, a call reserves room for the pictures that it has in flight at once. Without room, or if
   its deadline would pass first, it is rejected at once; a message of a stream waits instead. The call keeps the room
   until it is answered.
2. If the model computes on the host, pictures are submitted undecoded. If it has a device, a picture is announced when
   it goes to a decoder, and submitted or given up when the decoder is done.
3. Pictures are taken in order of when they are due: at the call's deadline, or after a fixed patience if that ends
   sooner. Streams have more patience than unary calls, but it is limited too, so nothing waits for ever.
4. The model's lanes, one thread each, take pictures from the queue. On the host a lane decodes and computes on one
   core, apart from other lanes where it can be, and takes no more than its share. For a device a lane waits for a batch
   to fill (`batch_wait` decides how long), but only while pictures are being decoded.
5. A lone picture of an otherwise idle model is decoded and computed in its caller's thread, on all cores: passing it to
   a lane and back would cost two wake-ups, of up to a millisecond each if the processor has gone to sleep.
6. Pictures whose caller has gone or whose deadline has passed are dropped before decoding, and before computing.
7. The test picture behind health goes ahead of all others, as a batch of its own.
8. Each picture's future gets its row. A batch that fails is retried picture by picture: a bad one fails alone.
9. A turn that hangs in the model is given up: its pictures fail, and its lane gets another thread (`lanes.py`).
   Whatever the old thread still returns is ignored.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
import structlog

from twinsight_core.engine import Engine
from twinsight_core.errors import Overloaded, Unavailable
from twinsight_core.host.cores import on_all_cores
from twinsight_core.host.own_cores import OwnCore, own_core
from twinsight_server.calls.call import Call
from twinsight_server.inference.batch_wait import BatchWait, FixedWait, TunedWait
from twinsight_server.inference.lanes import Lanes
from twinsight_server.inference.turns import Answer, Infer, Turn, Waiting, answer, due_of, fail, is_wanted, loaded
from twinsight_server.metrics import Metrics

log = structlog.stdlib.get_logger("twinsight.batcher")

_MIN_RETRY_S = 0.05
_LOOKS = 3
CLOSING_S = 10.0
"""For queued pictures when the server stops: longer than any batch takes, but limited in case one hangs."""


class Batcher:
    """The queue and the lanes of one model."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        metrics: Metrics,
        *,
        queue_size: int,
        wait_s: float | None,
        p99_goal_s: float = 0.05,
    ) -> None:
        """Starts no thread yet; `start` must follow once the engine is warm.

        Args:
            name: the model's name, for metrics and the threads.
            engine: runs the model.
            metrics: counts batches.
            queue_size: pictures in flight at once, of all calls together.
            wait_s: longest wait for a batch to fill; None: adapts to the load and `p99_goal_s`. Never on the host.
            p99_goal_s: target for the 99th percentile of a picture's time in here.
        """
        self._name = name
        self._engine = engine
        self._metrics = metrics
        self._dropped = metrics.dropped.labels(name)
        self._batch_size = metrics.batch_size.labels(name)  # so that the metric exists from the start, as zero
        self._queue_size = queue_size
        self._fixed_wait_s = wait_s
        self._p99_goal_s = p99_goal_s
        self._wait: BatchWait = FixedWait(0.0)
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # only the lanes wait for it
        self._room_freed = threading.Condition(lock)
        self._numbers = itertools.count()
        self._waiting: list[Waiting] = []  # a heap
        self._taken = 0
        self._decoding = 0
        self._turns: dict[int, Turn] = {}  # by thread
        self._hung = 0
        self._alone_hangs = False
        self._closed = False
        self._seconds_per_image = 0.0  # moving average, of one lane
        self._longest_turn_s = 0.0
        self._lanes = Lanes(name, engine, self._work)
        metrics.queued.labels(name).set_function(lambda: self._taken)

    def start(self) -> None:
        """Starts the lanes."""
        if not self.on_host:
            fixed_s = self._fixed_wait_s
            self._wait = (
                TunedWait(self._p99_goal_s, lanes=self._engine.lanes) if fixed_s is None else FixedWait(fixed_s)
            )
        self._metrics.batch_wait.labels(self._name).set_function(lambda: self._wait.seconds)
        self._lanes.start()

    @property
    def on_host(self) -> bool:
        """Whether lanes decode what they compute."""
        return self._engine.on_host

    @property
    def at_once(self) -> int:
        """Pictures of one call in flight at once: one batch per lane, at least two, limited by the queue's size."""
        return min(max(2, self._engine.lanes) * self._engine.max_batch, self._queue_size)

    @property
    def max_batch(self) -> int:
        """Pictures in the largest batch."""
        return self._engine.max_batch

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being decoded, queued or computed."""
        return not (self._decoding or self._waiting or self._turns)

    @property
    def is_broken(self) -> bool:
        """Whether all lanes are lost: as many turns hang as it has lanes, or none of them is replaced yet."""
        return max(self._hung, self._lanes.lost) >= self._engine.lanes

    @contextmanager
    def room(self, count: int, call: Call) -> Iterator[None]:
        """Reserves room for `count` pictures for the duration of the block.

        There is no deadlock: a call that waits for room holds none, and calls that hold room do not wait for that call.

        Args:
            count: at most the size of the queue.
            call: waits or is rejected, depending on its kind.

        Raises:
            Overloaded: there is no room, or the call's deadline would pass before its turn; says when to retry.
            Cancelled, DeadlineExceeded: there was no room for as long as the caller waited.
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
                retry_after_s = max(_MIN_RETRY_S, self._wait_of(self._taken) / 2)
                raise Overloaded(
                    f"The queue of model `{self._name}` is full: it holds {self._taken} images (limit "
                    f"{self._queue_size}), and {count} more would not fit; retry after {retry_after_s:.2f} s.",
                    retry_after_s=retry_after_s,
                )
            self._check_hope(call)
            self._taken += count
        try:
            yield
        finally:
            with self._room_freed:
                self._taken -= count
                self._room_freed.notify_all()

    def announce(self) -> None:
        """Announces that a picture goes to a decoder: `submit` or `give_up` must follow."""
        with self._changed:
            self._decoding += 1

    def give_up(self, *, is_dropped: bool = False) -> None:
        """Withdraws an announced picture; `is_dropped`: because nobody waits for it any more."""
        if is_dropped:
            self._dropped.inc()
        with self._changed:
            self._decoding -= 1
            self._changed.notify()

    def submit(
        self,
        load: Callable[[], np.ndarray],
        call: Call,
        future: Future[Answer],
        *,
        announced: bool = False,
        due: float | None = None,
    ) -> None:
        """Queues a picture.

        Args:
            load: returns [height, width, 3] uint8 at the model's size; may raise TwinsightError.
            call: the call that it belongs to.
            future: gets the model's answer, float32, or the error of `load` as its result; or raises Cancelled,
                DeadlineExceeded, Unavailable, or the error of computing.
            announced: whether it was announced and comes from a decoder.
            due: when it was due before it was decoded, so that waiting for a decoder counts; None: computed now.
        """
        with self._changed:
            self._decoding -= announced
            self._put(load, call, future, due=due_of(call) if due is None else due)

    def submit_urgent(self, image: np.ndarray, call: Call) -> Future[Answer]:
        """Queues a picture ahead of all others, without room: for the test inference behind health.

        A full queue is load and not a fault, so it must not fail the test. The picture shares no batch either: it would
        wait for the other pictures, and the batch size would decide which program computes it.

        Args:
            image: [height, width, 3] uint8 at the model's size.
            call: the call that it belongs to.

        Returns:
            Like the future of `submit`.
        """
        future: Future[Answer] = Future()
        with self._changed:
            self._put(lambda: image, call, future, due=Waiting.URGENT)
        return future

    def infer_alone(self, load: Callable[[], np.ndarray], call: Call, future: Future[Answer]) -> bool:
        """Computes a picture in the caller's thread if the model is idle; returns whether it did.

        The arguments are those of `submit`.
        """
        with self._changed:
            if self._closed or self._alone_hangs or not self.is_idle:
                return False
            one = Waiting(0.0, 0, load, call, future, time.monotonic())
            turn = self._turns[threading.get_ident()] = Turn(None, [one], one.since)
        with on_all_cores():
            self._serve(turn, lambda images: [self._engine.infer_alone(image) for image in images])
        return True

    def give_up_hung(self, limit_s: float) -> int:
        """Gives up turns that the model has had for longer than a limit; returns how many there were.

        Their pictures fail with Unavailable, and their lanes are replaced, because hanging threads can't be stopped. A
        picture that hangs in its caller's own thread can't be answered there: its call is cut off. Must be called
        periodically: a turn counts as hanging only after several calls have found the model at it, since before that
        the whole process may have stood still; and lanes that could not be replaced are tried again.
        """
        with self._changed:
            now = time.monotonic()
            hung: dict[int, Turn] = {}
            for thread, turn in self._turns.items():
                turn.looks += turn.computing is not None
                if turn.looks >= _LOOKS and turn.computing is not None and now - turn.computing > limit_s:
                    hung[thread] = turn
            for thread, turn in hung.items():
                del self._turns[thread]
                self._alone_hangs = self._alone_hangs or turn.lane is None
            self._hung += len(hung)
            self._changed.notify()
        for turn in hung.values():
            log.error("batch hangs", model=self._name, lane=turn.lane, size=len(turn.batch), limit_s=round(limit_s, 3))
            for one in turn.batch:
                answer(one.future, Unavailable("The model hangs on this batch.", reason="MODEL_HUNG"))
                if turn.lane is None and one.call.cut_off:
                    one.call.cut_off()
        self._lanes.lose(turn.lane for turn in hung.values() if turn.lane is not None)
        return len(hung)

    def longest_turn_s(self) -> float:
        """Returns the time of the longest turn since the last call of this."""
        with self._changed:
            longest, self._longest_turn_s = self._longest_turn_s, 0.0
        return longest

    def close(self, timeout_s: float = CLOSING_S) -> None:
        """Computes what is queued, then stops the lanes; waits so long for them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._room_freed.notify_all()
        self._lanes.close(timeout_s)

    def _wait_of(self, pictures: int) -> float:
        """Returns the estimated seconds to compute this many pictures."""
        return pictures * self._seconds_per_image / self._engine.lanes

    def _check_hope(self, call: Call) -> None:
        """Rejects a call whose deadline will have passed before its turn: its work would be wasted."""
        remaining_s = call.remaining_s()
        if remaining_s is None or not self._waiting or call.is_patient:  # streams are not rejected because of load
            return
        due = due_of(call)
        wait_s = self._wait_of(self._decoding + sum(one.due <= due for one in self._waiting))
        if wait_s > remaining_s:
            self._metrics.refused.labels("DEADLINE_TOO_SHORT").inc()
            raise Overloaded(
                f"Model `{self._name}` needs about {wait_s * 1e3:.0f} ms to reach this call; its deadline is in "
                f"{remaining_s * 1e3:.0f} ms.",
                retry_after_s=max(_MIN_RETRY_S, wait_s - remaining_s),
                reason="DEADLINE_TOO_SHORT",
            )

    def _put(self, load: Callable[[], np.ndarray], call: Call, future: Future[Answer], *, due: float) -> None:
        if self._closed:
            future.set_exception(_draining())
            return
        heapq.heappush(self._waiting, Waiting(due, next(self._numbers), load, call, future, time.monotonic()))
        self._changed.notify()

    def _work(self, lane: int, infer: Infer) -> None:
        """Serves turns on a lane until this is closed, or a turn was given up meanwhile."""
        with own_core(wanted=self._engine.has_lane_per_core) as core:
            while turn := self._next_turn(lane, core):
                is_kept = self._serve(turn, infer, core)
                del turn  # its pictures and their calls would stay until the next ones come
                if not is_kept:
                    return

    def _next_turn(self, lane: int, core: OwnCore) -> Turn | None:
        """Waits for pictures; returns a turn with at most the largest bucket of them, or None once closed and empty."""
        with self._changed:
            while True:
                if not self._waiting:
                    core.leave()
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._wait_for_company()
                # While this lane waited, another may have taken everything.
                if batch := self._take():
                    turn = self._turns[threading.get_ident()] = Turn(lane, batch, time.monotonic())
                    return turn
                if self._closed:
                    return None

    def _wait_for_company(self) -> None:
        """Waits for the batch to fill, at most as long as its first picture may wait."""
        if not self._waiting or self._is_full():
            return
        wait_s = self._waiting[0].since + self._wait.seconds - time.monotonic()
        if wait_s > 0:
            before = len(self._waiting)
            self._changed.wait_for(self._is_full, timeout=wait_s)
            if self._waiting:
                self._wait.waited(max(0, len(self._waiting) - before))  # another lane may have taken some

    def _take(self) -> list[Waiting]:
        """Takes a batch from the queue, and wakes another lane if there is more."""
        count = 1 if self._is_urgent() else self._share()
        batch = [heapq.heappop(self._waiting) for _ in range(count)]
        if self._waiting:
            self._changed.notify()
        return batch

    def _share(self) -> int:
        """Returns how many of the queued pictures a lane takes."""
        if not self.on_host:
            return min(len(self._waiting), self._engine.max_batch)
        free = max(1, self._engine.lanes - len(self._turns))
        fair = math.ceil(len(self._waiting) / free)
        return max((one for one in self._engine.buckets if one <= fair), default=fair)

    def _is_urgent(self) -> bool:
        return bool(self._waiting) and self._waiting[0].is_urgent

    def _is_full(self) -> bool:
        """Whether to stop waiting: the largest bucket is full, nothing is being decoded, or something is urgent."""
        full = len(self._waiting) >= self._engine.max_batch
        return full or not self._decoding or not self._waiting or self._closed or self._is_urgent()

    def _serve(self, turn: Turn, infer: Infer, core: OwnCore | None = None) -> bool:
        """Decodes and computes the pictures of a batch that are still wanted, and ends this thread's turn.

        Returns:
            Whether the turn still counts: False if it was given up in the meantime.
        """
        try:
            if core is not None:
                core.take()
            ready = [(one, image) for one in turn.batch if (image := loaded(one, self._dropped)) is not None]
            self._compute([(one, image) for one, image in ready if is_wanted(one, self._dropped)], turn, infer)
        except Exception as error:  # without memory, even telling what failed may fail
            for one in turn.batch:
                fail(one.future, error)
            log.exception("turn failed", model=self._name, size=len(turn.batch))
        finally:
            with self._changed:
                kept = self._turns.pop(threading.get_ident(), None) is turn
                if kept:
                    now = time.monotonic()
                    took = now - turn.begun
                    self._wait.served(turn.begun, now, [one.since for one in turn.batch])
                    self._longest_turn_s = max(self._longest_turn_s, took)
                    self._seconds_per_image += 0.1 * (took / len(turn.batch) - self._seconds_per_image)
                else:
                    self._hung -= 1
                    self._alone_hangs = self._alone_hangs and turn.lane is not None
        return kept

    def _compute(self, batch: Sequence[tuple[Waiting, np.ndarray]], turn: Turn, infer: Infer) -> None:
        if not batch:
            return
        start = time.monotonic()
        try:
            answers = turn.computed(infer, [image for _, image in batch])
        except Exception as error:
            if len(batch) == 1:
                ((one, _),) = batch
                log.exception("inference failed on an image", model=self._name, request_id=one.call.request_id)
                fail(one.future, error)
                return
            log.exception("batch failed; retrying its images one by one", model=self._name, size=len(batch))
            for single in batch:
                self._compute([single], turn, infer)
            return
        took = time.monotonic() - start
        if not batch[0][0].is_urgent:  # otherwise most batches of an idle server would be health's test pictures
            self._batch_size.observe(len(batch))
        for (one, _), row in zip(batch, answers, strict=True):
            one.call.record("compute", took)
            answer(one.future, row)


def _draining() -> Unavailable:
    return Unavailable("The server is shutting down.", reason="DRAINING")
