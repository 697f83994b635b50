"""The process that a peer, or a client of one, lives in.

`python -m benchmarks.peers.worker MODULE` carries out orders from standard input until that ends; then it ends what it
started, so nothing outlives the run, however that ends. MODULE has, as far as it is asked for them:

- `serve(settings)`: context manager that runs the server and gives facts, such as its address;
- `fill(settings)`: puts the vectors into the server and returns facts;
- `subject(settings)`: a `Subject`, one for each thread, which may have `facts`;
- `load(subjects, at, seconds)`: in place of `closed_loop`.

Only the standard library is imported: it runs in the peers' environments too.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import Protocol, cast

from benchmarks.peers.orders import Answer, BatchSubject, Do, Order, Settings, Subject


class PeerModule(Protocol):
    """What a peer's module has, as far as it is asked for it."""

    def serve(self, settings: Settings) -> AbstractContextManager[Settings]:
        """Runs the server; gives facts, such as its address."""
        ...

    def fill(self, settings: Settings) -> Settings:
        """Puts the vectors into the server; returns facts."""
        ...

    def subject(self, settings: Settings) -> Subject:
        """Returns what is measured, for one thread."""
        ...


Load = Callable[[Sequence[Subject], float, float], Answer]


def closed_loop(subjects: Sequence[Subject], at: float, seconds: float) -> Answer:
    """Returns the times of calls that ended between `at` and `at + seconds`; each subject has a thread that calls on.

    Raises:
        Exception: whatever a call raised first.
    """
    times: list[list[float]] = [[] for _ in subjects]
    failed: list[Exception] = []
    end = at + seconds

    def run(place: int, subject: Subject) -> None:
        mine = times[place]
        try:
            for number in count(place, len(subjects)):
                start = time.monotonic()
                if start >= end or failed:
                    return
                subject.call(number)
                if at <= (now := time.monotonic()) <= end:
                    mine.append((now - start) * 1e3)
        except Exception as error:  # noqa: BLE001 - told to the caller's thread
            failed.append(error)

    threads = [threading.Thread(target=run, args=(place, one)) for place, one in enumerate(subjects)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    joined = [one for mine in times for one in mine]
    return Answer(times_ms=joined, count=len(joined))


class Worker:
    """Carries out orders; `stack` ends what they started."""

    def __init__(self, module: PeerModule, stack: ExitStack) -> None:
        self._module = module
        self._stack = stack
        self._subjects: list[Subject] = []
        self._next = 0

        self._ways: dict[Do, Callable[[Order], Answer]] = {
            "serve": lambda order: Answer(facts=stack.enter_context(module.serve(order.settings))),
            "fill": lambda order: Answer(facts=module.fill(order.settings)),
            "open": lambda order: self._open(order.settings, order.count),
            "times": lambda order: self._times(order, self._subjects[0].call),
            "batches": self._batches,
            "load": self._load,
            "values": lambda order: Answer(values=[self._subjects[0].values(n) for n in range(order.count)]),
            "versions": lambda order: Answer(facts={name: _version(name) for name in order.settings}),
        }

    def carry_out(self, order: Order) -> Answer:
        """Returns what came of one order."""
        return self._ways[order.do](order)

    def _batches(self, order: Order) -> Answer:
        subject = cast("BatchSubject", self._subjects[0])
        return self._times(order, lambda number: subject.batch(number * order.size, order.size))

    def _load(self, order: Order) -> Answer:
        load: Load = getattr(self._module, "load", closed_loop)
        return load(self._subjects, order.at, order.seconds)

    def _open(self, settings: Settings, threads: int) -> Answer:
        for subject in self._subjects:
            subject.close()
        self._subjects.clear()
        for _ in range(threads):
            self._subjects.append(self._module.subject(settings))
            self._stack.callback(self._subjects[-1].close)
        told: Settings = getattr(self._subjects[0], "facts", {})
        return Answer(facts=told)

    def _times(self, order: Order, call: Callable[[int], object]) -> Answer:
        times = []
        for turn in range(order.warm_up + order.count):
            start = time.perf_counter()
            call(self._next)
            self._next += 1
            if turn >= order.warm_up:
                times.append((time.perf_counter() - start) * 1e3)
        return Answer(times_ms=times, count=len(times))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _shortened(message: str) -> str:
    """Returns the beginning and the end: of a trace that a message repeats, the end says what it is about."""
    return message if len(message) <= 600 else f"{message[:200]} ... {message[-400:]}"


def main(module: str) -> None:
    """Carries out orders until the input ends."""
    # Libraries print to standard output; the answers keep it to themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with ExitStack() as stack:
        worker = Worker(cast("PeerModule", importlib.import_module(module)), stack)
        for line in sys.stdin:
            try:
                answer = worker.carry_out(Order.parse(line))
            except Exception as error:  # noqa: BLE001 - the run records why a peer failed, and goes on
                answer = Answer(error=_shortened(f"{type(error).__name__}: {error}"))
            answers.write(answer.line() + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
