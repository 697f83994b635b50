"""Pictures of many calls gathered into batches for one model.

1. A call takes room for as many pictures as it has in work at once, before any is decoded; without room, or where its
   deadline would pass first, it is refused at once, and a message of a stream waits. It keeps the room until it is
   answered.
2. A picture is submitted undecoded where the model computes on the host. Where it has a device, the picture is
   announced when it goes to a decoder, and submitted, or given up, when it comes from there.
3. What is due first is taken first: a deadline, or the time within which a call wants its answer. Streams have more
   patience than unary calls, and all of it ends, so that nobody waits for ever.
4. The model's lanes, each a thread, take what waits. On the host a lane decodes and computes on one core, and takes no
   more than its share. For a device a lane waits for a batch to fill (`batch_wait`: how long), but only while pictures
   are being decoded.
5. A lone picture of a model with nothing else in work is decoded and computed by its caller's own thread, on all cores:
   passing it to a lane and back would cost two wake-ups, of up to a millisecond each where the processor has gone to
   sleep.
6. Pictures whose caller is gone or whose deadline has passed are dropped before they are decoded, and again before they
   are computed.
7. The test picture behind health goes before all others, as a batch of its own.
8. Each picture's future gets its row. A batch that fails is tried again picture by picture, so that one that poisons it
   fails alone.
9. A turn that hangs in the model is given up: its pictures fail, and its lane is made anew, in a thread of its own.
   What the old thread still brings is ignored.
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
from twinsight_core.host.cores import on_all_cores, use_all_cores
from twinsight_server.calls.call import Call
from twinsight_server.inference.batch_wait import BatchWait, FixedWait, TunedWait
from twinsight_server.inference.turns import Answer, Infer, Turn, Waiting, answer, due_of, fail, is_wanted, loaded
from twinsight_server.metrics import Metrics

log = structlog.stdlib.get_logger("twinsight.batcher")

_MIN_RETRY_S = 0.05
_LOOKS = 3
_RENEW_AGAIN_S = 5.0
_CLOSING_S = 10.0
"""For what waits when the server ends: more than any batch takes, and no end where one hangs."""


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
        """Takes what it serves; `start` follows once the engine is warm.

        Args:
            name: the model's name, for metrics and the threads.
            engine: computes.
            metrics: where batches are counted.
            queue_size: pictures that calls may have in work at once, all together.
            wait_s: longest wait for a batch to fill; None: follows the load and `p99_goal_s`. The host waits for none.
            p99_goal_s: time in here that one picture in a hundred may exceed.
        """
        self._name = name
        self._engine = engine
        self._metrics = metrics
        self._dropped = metrics.dropped.labels(name)
        self._batch_size = metrics.batch_size.labels(name)  # there from the start, as a count of none
        self._queue_size = queue_size
        self._fixed_wait_s = wait_s
        self._p99_goal_s = p99_goal_s
        self._wait: BatchWait = FixedWait(0.0)
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # the lanes alone wait for it
        self._room_freed = threading.Condition(lock)
        self._numbers = itertools.count()
        self._waiting: list[Waiting] = []  # a heap
        self._taken = 0
        self._decoding = 0
        self._turns: dict[int, Turn] = {}  # by thread
        self._hung = 0
        self._alone_hangs = False
        self._missing: set[int] = set()  # lanes that are being made anew
        self._closed = False
        self._seconds_per_image = 0.0  # moving average, of one lane
        self._longest_turn_s = 0.0
        self._lanes: list[threading.Thread] = []
        metrics.queued.labels(name).set_function(lambda: self._taken)

    def start(self) -> None:
        """Starts the lanes."""
        if not self.on_host:
            fixed_s = self._fixed_wait_s
            self._wait = (
                TunedWait(self._p99_goal_s, lanes=self._engine.lanes) if fixed_s is None else FixedWait(fixed_s)
            )
        self._metrics.batch_wait.labels(self._name).set_function(lambda: self._wait.seconds)
        self._lanes = [self._started(lane) for lane in range(self._engine.lanes)]

    @property
    def on_host(self) -> bool:
        """Whether lanes decode what they compute."""
        return self._engine.on_host

    @property
    def at_once(self) -> int:
        """Pictures of one call in work at once: two batches for a device, one for each lane of the host."""
        return min(max(2, self._engine.lanes) * self._engine.max_batch, self._queue_size)

    @property
    def max_batch(self) -> int:
        """Pictures in the largest batch."""
        return self._engine.max_batch

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being decoded, waits or is computed."""
        return not (self._decoding or self._waiting or self._turns)

    @property
    def is_broken(self) -> bool:
        """Whether as many turns as it has lanes hang, whose threads hold cores or the device, or no lane is there."""
        return max(self._hung, len(self._missing)) >= self._engine.lanes

    @contextmanager
    def room(self, count: int, call: Call) -> Iterator[None]:
        """Takes room for `count` pictures at once, for as long as the call is worked on.

        A call that waits for room holds none, and whoever holds some waits for nothing that the call has: so they never
        wait for each other.

        Args:
            count: at most the size of the queue.
            call: is refused, or waits, as it wants.

        Raises:
            Overloaded: there is none, or the call's deadline would pass before its turn; says when to come again.
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
                    retry_after_s=max(_MIN_RETRY_S, self._wait_of(self._taken) / 2),
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
        """Says that a picture goes to a decoder: `submit` or `give_up` follows."""
        with self._changed:
            self._decoding += 1

    def give_up(self, *, is_dropped: bool = False) -> None:
        """Says that an announced picture does not come; `is_dropped`: since nobody waits for it any more."""
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
            call: whose it is.
            future: gets the model's answer, float32, or what `load` raised; or raises Cancelled, DeadlineExceeded,
                Unavailable, or what computing raised.
            announced: whether it comes from a decoder.
            due: when it was due on its way there, so that waiting for a decoder counts; None: as of now.
        """
        with self._changed:
            self._decoding -= announced
            self._put(load, call, future, due=due_of(call) if due is None else due)

    def submit_urgent(self, image: np.ndarray, call: Call) -> Future[Answer]:
        """Queues a picture ahead of all others and without room: for the test inference behind health.

        A full queue is load and not sickness, so it must not fail the test. Nor does it share a batch, which would make
        it wait for the others' answers, and have them computed by one program today and another tomorrow.

        Args:
            image: [height, width, 3] uint8 at the model's size.
            call: whose it is.

        Returns:
            As the future of `submit`.
        """
        future: Future[Answer] = Future()
        with self._changed:
            self._put(lambda: image, call, future, due=Waiting.URGENT)
        return future

    def infer_alone(self, load: Callable[[], np.ndarray], call: Call, future: Future[Answer]) -> bool:
        """Computes a picture in the caller's thread if nothing else is in work; returns whether it was so.

        Arguments as in `submit`.
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

        Their pictures fail with Unavailable, and their lanes are made anew: those that hang can't be ended. A picture
        that hangs in its caller's own thread can't be answered there: its call is cut off. To be asked again and again:
        what it did not find at work several times may have stood still with the whole process.
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
            renewed = [turn.lane for turn in hung.values() if turn.lane is not None and not self._closed]
            self._missing.update(renewed)
            self._changed.notify()
        for turn in hung.values():
            log.error("a turn hangs", model=self._name, lane=turn.lane, size=len(turn.batch), limit_s=round(limit_s, 3))
            for one in turn.batch:
                answer(one.future, Unavailable("The model hangs on this batch.", reason="MODEL_HUNG"))
                if turn.lane is None and one.call.cut_off:
                    one.call.cut_off()
        for lane in renewed:  # it may take seconds, or for ever on a device that is sick
            threading.Thread(target=self._renew, args=(lane,), name=f"renew-{self._name}", daemon=True).start()
        return len(hung)

    def _renew(self, lane: int) -> None:
        """Makes a lane anew, and tries again until it can be made."""
        use_all_cores()
        while not self._closed:
            try:
                self._engine.renew(lane)
            except Exception:
                log.exception("a lane can't be made anew", model=self._name, lane=lane)
                time.sleep(_RENEW_AGAIN_S)
                continue
            with self._changed:
                self._missing.discard(lane)
                self._lanes[lane] = self._started(lane)
            return

    def longest_turn_s(self) -> float:
        """Returns the longest time that a lane was busy at a stretch since this was last asked."""
        with self._changed:
            longest, self._longest_turn_s = self._longest_turn_s, 0.0
        return longest

    def close(self) -> None:
        """Computes what waits, then stops the lanes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._room_freed.notify_all()
        ends = time.monotonic() + _CLOSING_S
        for lane in self._lanes:
            lane.join(max(0.0, ends - time.monotonic()))
            if lane.is_alive():
                log.warning("a lane does not end", model=self._name, lane=lane.name)

    def _wait_of(self, pictures: int) -> float:
        """Seconds until as many pictures are done."""
        return pictures * self._seconds_per_image / max(1, len(self._lanes))

    def _check_hope(self, call: Call) -> None:
        """Refuses a call whose deadline will have passed when its turn comes: its work would be thrown away."""
        remaining_s = call.remaining_s()
        if remaining_s is None or not self._waiting or call.is_patient:  # a stream is not refused for load
            return
        due = due_of(call)
        wait_s = self._wait_of(self._decoding + sum(one.due <= due for one in self._waiting))
        if wait_s > remaining_s:
            self._metrics.refused.labels("DEADLINE_TOO_SHORT").inc()
            raise Overloaded(
                f"Model `{self._name}` comes to this call in about {wait_s * 1e3:.0f} ms, and its deadline is in "
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

    def _started(self, lane: int) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(lane,), name=f"lane-{self._name}-{lane}", daemon=True)
        thread.start()
        return thread

    def _run(self, lane: int) -> None:
        use_all_cores()
        infer = self._engine.lane(lane)
        while turn := self._next_turn(lane):
            if not self._serve(turn, infer):
                return

    def _next_turn(self, lane: int) -> Turn | None:
        """Waits for pictures; returns at most the largest bucket, or None once closed and empty."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._wait_for_company()
                # While this one waited for company another lane may have taken all.
                if batch := self._take():
                    turn = self._turns[threading.get_ident()] = Turn(lane, batch, time.monotonic())
                    return turn
                if self._closed:
                    return None

    def _wait_for_company(self) -> None:
        """Waits for the batch to fill, at most as long as its first picture is to wait."""
        if not self._waiting or self._is_full():
            return
        wait_s = self._waiting[0].since + self._wait.seconds - time.monotonic()
        if wait_s > 0:
            before = len(self._waiting)
            self._changed.wait_for(self._is_full, timeout=wait_s)
            if self._waiting:
                self._wait.waited(max(0, len(self._waiting) - before))  # another lane may have taken some

    def _take(self) -> list[Waiting]:
        """Takes a batch off the queue, and wakes another lane for the rest."""
        if self._is_urgent():
            batch = [heapq.heappop(self._waiting)]
        else:
            batch = [heapq.heappop(self._waiting) for _ in range(self._share())]
        if self._waiting:
            self._changed.notify()
        return batch

    def _share(self) -> int:
        """How many of the waiting pictures a lane takes."""
        if not self.on_host:
            return min(len(self._waiting), self._engine.max_batch)
        free = max(1, len(self._lanes) - len(self._turns))
        fair = math.ceil(len(self._waiting) / free)
        return max((one for one in self._engine.buckets if one <= fair), default=fair)

    def _is_urgent(self) -> bool:
        return bool(self._waiting) and self._waiting[0].is_urgent

    def _is_full(self) -> bool:
        """Whether to wait no longer: the largest bucket is full, nothing is being decoded, or something is urgent."""
        full = len(self._waiting) >= self._engine.max_batch
        return full or not self._decoding or not self._waiting or self._closed or self._is_urgent()

    def _serve(self, turn: Turn, infer: Infer) -> bool:
        """Decodes and computes what is still wanted of a batch, and ends this thread's turn.

        Returns:
            Whether the turn was not given up meanwhile.
        """
        try:
            ready = [(one, image) for one in turn.batch if (image := loaded(one, self._dropped)) is not None]
            self._compute([(one, image) for one, image in ready if is_wanted(one, self._dropped)], turn, infer)
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
                log.exception("a picture failed in compute", model=self._name, request_id=one.call.request_id)
                fail(one.future, error)
                return
            log.exception("a batch failed; its pictures are tried one by one", model=self._name, size=len(batch))
            for single in batch:
                self._compute([single], turn, infer)
            return
        took = time.monotonic() - start
        if not batch[0][0].is_urgent:  # health's test pictures would be most batches of a server at rest
            self._batch_size.observe(len(batch))
        for (one, _), row in zip(batch, answers, strict=True):
            one.call.record("compute", took)
            answer(one.future, row)


def _draining() -> Unavailable:
    return Unavailable("The server is shutting down.", reason="DRAINING")
