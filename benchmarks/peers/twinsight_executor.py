"""What computes inside the server, without the server: twinsight's executor in this process.

As a load it is the limit of the server's throughput too: threads that decode JPEGs, and one that computes batches of
what they have decoded, with nothing between them but a queue.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np

from benchmarks.peers.orders import Answer, Settings, Subject
from benchmarks.serving import served_executor
from twinsight_core.executors.base import Executor
from twinsight_core.images import Preprocessing, decode
from twinsight_core.packages import shipped_packages

IN_FLIGHT = 16
"""JPEGs in work at once, as the servers get them, where the settings don't say."""


def subject(settings: Settings) -> Computing:
    """Returns the executor that the server would choose; its settings: see `Computing`."""
    package = next(one for one in shipped_packages() if one.name == "base")
    return Computing(served_executor(package), package.card.preprocessing, settings)


class Computing:
    """An executor, prepared for the powers of two up to a batch size, and one such batch.

    Args:
        executor: computes.
        to: what it takes.
        settings: pixels, jpeg, batch (the largest), decoders (threads), in_flight (JPEGs in work).
    """

    def __init__(self, executor: Executor, to: Preprocessing, settings: Settings) -> None:
        self.executor = executor
        self.facts: Settings = {"executor": executor.name}
        self.to = to
        self.batch_size = int(settings["batch"])
        self.decoders = int(settings.get("decoders", 1))
        self.in_flight = int(settings.get("in_flight", IN_FLIGHT))
        self.encoded = Path(str(settings["jpeg"])).read_bytes()
        self._images = np.repeat(np.load(str(settings["pixels"]))[None], self.batch_size, axis=0)
        executor.prepare(*_powers_of_two(self.batch_size))

    def call(self, number: int) -> np.ndarray:
        """Computes the batch."""
        del number
        return self.executor.compute(self._images)

    def values(self, number: int) -> list[float]:
        """Returns the first picture's vector."""
        return [float(one) for one in self.call(number)[0]]

    def close(self) -> None:
        """Nothing to end."""


def load(subjects: Sequence[Subject], at: float, seconds: float) -> Answer:
    """Returns the time of each JPEG from its hand-over to its vector, of those done between `at` and `at + seconds`."""
    one = cast("Computing", subjects[0])
    decoded: queue.SimpleQueue[tuple[float, np.ndarray]] = queue.SimpleQueue()
    times: list[float] = []

    def work() -> None:
        start = time.monotonic()
        decoded.put((start, decode(one.encoded, one.to)))

    with ThreadPoolExecutor(one.decoders) as pool:
        for _ in range(one.in_flight):
            pool.submit(work)
        waiting: deque[tuple[float, np.ndarray]] = deque()
        while time.monotonic() < at + seconds:
            waiting.append(decoded.get())
            while not decoded.empty():
                waiting.append(decoded.get())
            size = max(n for n in _powers_of_two(one.batch_size) if n <= len(waiting))
            batch = [waiting.popleft() for _ in range(size)]
            one.executor.compute(np.stack([picture for _, picture in batch]))
            now = time.monotonic()
            if at <= now <= at + seconds:
                times += [(now - start) * 1e3 for start, _ in batch]
            for _ in batch:
                pool.submit(work)
    return Answer(times_ms=times, count=len(times))


def _powers_of_two(largest: int) -> list[int]:
    return [2**n for n in range(largest.bit_length())]
