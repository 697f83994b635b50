"""Decoding and computing in a process without a server: threads decode JPEGs, one computes batches of them.

It is the limit of the server's throughput: `benchmarks.peers.twinsight_executor`, with a queue between the threads and
nothing else.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.peers.orders import Order, Settings
from benchmarks.peers.processes import Worker
from twinsight_core.images import decode
from twinsight_core.packages import find_package

WARM_UP_S = 0.5
STARTED_WITHIN_S = 240.0


class Inside:
    """The process. Use `inside`.

    Attributes:
        settings: how many threads decode, and the largest batch.
        tried: the settings that were tried, with pictures a second.
    """

    def __init__(self, worker: Worker, common: Settings) -> None:
        self._worker = worker
        self._common = common
        self.settings: Settings = {}
        self.tried: list[Settings] = []

    def choose(self, settings: list[Settings], *, in_flight: int, seconds: float) -> None:
        """Tries settings, and keeps to those that computed most."""
        for one in settings:
            self.settings = one
            self.tried.append({**one, "per_s": self.per_s(in_flight, seconds)})
        best = max(range(len(settings)), key=lambda place: self.tried[place]["per_s"])
        self.settings = settings[best]

    def per_s(self, in_flight: int, seconds: float) -> float:
        """Returns pictures a second with so many in work."""
        settings = {**self._common, **self.settings, "in_flight": in_flight}
        self._worker.ask(Order("open", settings=settings, count=1), timeout_s=STARTED_WITHIN_S)
        order = Order("load", at=time.monotonic() + WARM_UP_S, seconds=seconds)
        return round(self._worker.ask(order).count / seconds, 1)


def all_settings() -> list[Settings]:
    """Returns what is worth trying: a thread, or one for each core, that decodes, and batches up to 4, 8 or 16."""
    return [
        {"decoders": decoders, "batch": batch}
        for decoders in range(1, (os.cpu_count() or 1) + 1)
        for batch in (4, 8, 16)
    ]


@contextmanager
def inside(jpeg: Path, folder: Path) -> Iterator[Inside]:
    """Runs the process; `folder` takes what it prints."""
    pixels = folder / "pixels.npy"
    np.save(pixels, decode(jpeg.read_bytes(), find_package("base").card.preprocessing))
    with Worker(Path(sys.executable), "benchmarks.peers.twinsight_executor", folder / "inside.log") as worker:
        yield Inside(worker, {"jpeg": str(jpeg), "pixels": str(pixels)})
