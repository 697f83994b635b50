"""The load itself: a number of calls in flight, or a number of calls per second.

1. One connection is opened for each call that may be in flight. Each has a worker that sends one call after another.
2. The first calls are sent one by one until one succeeds, so that an error common to all calls is reported at once.
3. Closed loop: a worker sends its next call when the last one is answered. A server that slows down gets fewer calls.
4. Open loop: a worker takes the next due time, waits for it, and sends. While all workers wait for responses, due times
   pass; the next free worker takes the oldest one, and the call's latency counts from when it was due.
5. No call is sent twice, and none starts after the end; the loop waits for those in flight, except on Ctrl-C.
6. Warm-up calls are sent and recorded like all others; they are recognised by when they were due.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import selectors
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from twinsight_client.bench.calls import Workload
from twinsight_client.bench.connection import Answer, Connection
from twinsight_client.bench.due import DueTimes, Window
from twinsight_client.bench.outcomes import ANSWERED, REFUSED, UNANSWERED
from twinsight_client.bench.records import Record, Recorder, Records, stage_fields
from twinsight_client.channel import Tls
from twinsight_client.errors import ResourceExhausted, Unavailable
from twinsight_client.request_ids import new_request_id
from twinsight_client.results import ModelReference
from twinsight_client.token import Bearer

TRIED = 8
"""Calls sent one by one until one succeeds: a folder may hold some pictures that fail."""
PAUSE_S = 0.05
"""Pause of a closed loop after a call that found no server: such failures take microseconds and would flood it."""
TICK_S = 0.5


@dataclass(frozen=True)
class Plan:
    """The plan of a load.

    Attributes:
        target: HOST:PORT of the server.
        concurrency: most calls in flight.
        duration_s: how long to measure.
        warmup_s: how long to send calls before that.
        rate: calls per second of an open loop; None: a closed loop.
        tls: None: plain text.
        bearer: adds the token; None: no token.
    """

    target: str
    concurrency: int
    duration_s: float
    warmup_s: float = 0.0
    rate: float | None = None
    tls: Tls | None = None
    bearer: Bearer | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Tick:
    """The progress of a run.

    Attributes:
        elapsed_s: time since its begin, including the warm-up.
        window: its times.
        in_flight: calls in flight.
        recent: the calls that ended since the last tick.
        recent_s: time since the last tick.
    """

    elapsed_s: float
    window: Window
    in_flight: int
    recent: Records
    recent_s: float


@dataclass(frozen=True)
class Run:
    """The data of a finished run.

    Attributes:
        name: prefix of the request ids of its calls, NAME-NUMBER.
        window: its times; `end` is earlier than planned if it was interrupted.
        records: records of all calls, including those of the warm-up and those that ended after the window.
        due_count: calls that were due until `window.end`, sent or not; None: a closed loop.
        interrupted: whether it ended early.
        cpu_share: CPU time of this process per second of the measured time; 1.0 is one core.
        warmup_due_count: of the calls due, those before `window.start`.
        model: the model that answered; empty if responses do not say.
        item_errors: number of failed items in measured calls, by name of the status code.
        refusals: number of measured calls that were refused for load, by the server's reason.
        messages: the server's first error message, by its reason, or by name of the status code if it gives none.
        refused_for_good: measured calls that were refused without a time to retry.
    """

    name: str
    window: Window
    records: Records
    due_count: int | None
    interrupted: bool
    cpu_share: float
    warmup_due_count: int = 0
    model: ModelReference = field(default_factory=ModelReference)
    item_errors: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    refused_for_good: int = 0


def run_load(workload: Workload, plan: Plan, *, on_tick: Callable[[Tick], None] = lambda _tick: None) -> Run:
    """Sends the load and returns the data of the run; Ctrl-C ends it early and returns the data so far.

    Args:
        workload: the calls to send.
        plan: how to send them.
        on_tick: called a few times a second with the progress.

    Raises:
        TwinsightClientError: the server can't be reached, or every one of the first calls fails.
        KeyboardInterrupt: the run was interrupted before the load began.
    """
    # epoll sleeps in whole milliseconds and misses due times by 0.6 ms at the median; select by 0.15 ms.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(_Load(workload, plan, on_tick).run())


class _Pacing(Protocol):
    """Decides when the next call is due."""

    def take(self) -> float | None:
        """Returns the next due time; None after the last."""
        ...


class _Load:
    """One run."""

    def __init__(self, workload: Workload, plan: Plan, on_tick: Callable[[Tick], None]) -> None:
        self._workload = workload
        self._plan = plan
        self._on_tick = on_tick
        self._name = f"bench-{new_request_id()[:8]}"
        self._numbers = itertools.count()
        self._requests = itertools.cycle(workload.requests)
        self._recorder = Recorder()
        self._window = Window(0, 0, 0)
        self._in_flight = 0
        self._cpu_from: tuple[float, float] | None = None
        self._cpu_share = 0.0
        self._model = ModelReference()
        self._item_errors: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._messages: dict[str, str] = {}
        self._refused_for_good = 0

    async def run(self) -> Run:
        plan = self._plan
        connections = [
            Connection(plan.target, tls=plan.tls, workload=self._workload, bearer=plan.bearer)
            for _ in range(plan.concurrency)
        ]
        try:
            # The first alone: an unreachable server is one error.
            await connections[0].open(request_id=self._name)
            await asyncio.gather(*(one.open(request_id=self._name) for one in connections[1:]))
            await self._try(connections[0])
            return await self._measure(connections)
        finally:
            await asyncio.gather(*(one.close() for one in connections))

    async def _try(self, connection: Connection) -> None:
        """Sends calls until one succeeds; raises the first one's error if none does."""
        errors: list[Exception] = []
        for request in self._workload.requests[:TRIED]:
            answer = await connection.send(request, request_id=f"{self._name}-{next(self._numbers)}")
            if answer.outcome == ANSWERED and len(answer.reading.errors) < self._workload.batch:
                self._model = answer.reading.model
                return
            if answer.outcome == REFUSED:  # because of other load: the server does respond
                return
            if answer.error is not None:
                raise answer.error
            errors.append(answer.reading.errors[0].exception(request_id=self._name))
        raise errors[0]

    async def _measure(self, connections: list[Connection]) -> Run:
        plan = self._plan
        self._window = Window.after(time.perf_counter(), warmup_s=plan.warmup_s, duration_s=plan.duration_s)
        due_times = None
        if plan.rate is not None:
            due_times = DueTimes(plan.rate, begin=self._window.begin, end=self._window.end)
        pacing: _Pacing = due_times or _AsSoonAsFree(self._window)
        watch = asyncio.create_task(self._watch())
        interrupted = False
        try:
            async with asyncio.TaskGroup() as workers:
                for one in connections:
                    workers.create_task(self._work(one, pacing))
        except asyncio.CancelledError:
            interrupted = True
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        now = time.perf_counter()
        self._note_cpu(now)
        window = self._window
        if interrupted:
            window = Window(window.begin, min(window.start, now), min(window.end, now))
        return Run(
            name=self._name,
            window=window,
            records=self._recorder.since(0),
            due_count=None if due_times is None else due_times.count_before(window.end),
            interrupted=interrupted,
            cpu_share=self._cpu_share,
            warmup_due_count=0 if due_times is None else due_times.count_before(window.start),
            model=self._model,
            item_errors=dict(self._item_errors),
            refusals=dict(self._refusals),
            messages=self._messages,
            refused_for_good=self._refused_for_good,
        )

    async def _work(self, connection: Connection, pacing: _Pacing) -> None:
        """Sends one call after another until the window ends."""
        while (due := pacing.take()) is not None:
            wait_s = due - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif time.perf_counter() >= self._window.end:
                return
            number = next(self._numbers)
            begun = time.perf_counter()
            self._in_flight += 1
            try:
                answer = await connection.send(next(self._requests), request_id=f"{self._name}-{number}")
            except asyncio.CancelledError:
                self._keep(number, due, Answer(begun, time.perf_counter(), UNANSWERED))
                raise
            finally:
                self._in_flight -= 1
            self._keep(number, due, answer)
            if self._plan.rate is None and isinstance(answer.error, Unavailable):
                await asyncio.sleep(PAUSE_S)

    def _keep(self, number: int, due: float, answer: Answer) -> None:
        if self._plan.rate is None:
            due = answer.begun
        failed = answer.reading.errors
        stages = stage_fields(answer.times)
        self._recorder.add(Record(number, due, answer.begun, answer.ended, answer.outcome, len(failed), *stages))
        if due < self._window.start:
            return
        if answer.error is not None:
            reason = answer.error.reason or answer.error.code
            self._messages.setdefault(reason, answer.error.message)
            if answer.outcome == REFUSED:
                self._refusals[reason] += 1
        if isinstance(answer.error, ResourceExhausted) and answer.error.retry_after_s is None:
            self._refused_for_good += 1
        for one in failed:
            self._item_errors[one.code] += 1
            self._messages.setdefault(one.reason or one.code, one.message)

    async def _watch(self) -> None:
        """Reports the progress of the run, and measures the CPU time of this process."""
        place = 0
        last = self._window.begin
        self._note_cpu_from(last)
        while True:
            now = time.perf_counter()
            marks = (self._window.start, self._window.end, now + TICK_S)
            await asyncio.sleep(min(one for one in marks if one > now) - now)
            now = time.perf_counter()
            self._note_cpu_from(now)
            if now >= self._window.end:
                self._note_cpu(now)
            recent = self._recorder.since(place)
            place += len(recent)
            self._on_tick(Tick(now - self._window.begin, self._window, self._in_flight, recent, now - last))
            last = now

    def _note_cpu_from(self, now: float) -> None:
        """Notes the start of the measured time, once it is reached."""
        if self._cpu_from is None and now >= self._window.start:
            self._cpu_from = (now, time.process_time())

    def _note_cpu(self, now: float) -> None:
        """Notes the CPU share of this process in the measured time; only the first call counts."""
        if self._cpu_from is not None and not self._cpu_share:
            wall_from, cpu_from = self._cpu_from
            self._cpu_share = (time.process_time() - cpu_from) / max(now - wall_from, 1e-9)


class _AsSoonAsFree:
    """The pacing of a closed loop: the next call is due as soon as a worker is free."""

    def __init__(self, window: Window) -> None:
        self._end = window.end

    def take(self) -> float | None:
        now = time.perf_counter()
        return now if now < self._end else None
