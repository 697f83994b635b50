"""What a process of this machine holds, as the kernel counts it, and what a server's metrics say."""

from __future__ import annotations

import statistics
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from prometheus_client.parser import text_string_to_metric_families


class Sample(NamedTuple):
    """What a process holds at a moment.

    Attributes:
        at: seconds of `time.monotonic`.
        rss_mb: resident memory, in millions of bytes.
        descriptors: open files and sockets.
        threads: threads.
    """

    at: float
    rss_mb: float
    descriptors: int
    threads: int


class Watch:
    """Samples a process in a thread, while the block runs.

    Args:
        pid: of the process.
        every_s: time between samples.

    Attributes:
        samples: all of them, in their order.
    """

    def __init__(self, pid: int, every_s: float) -> None:
        self._pid = pid
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.samples.append(sample(self._pid))

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self.samples.append(sample(self._pid))


def sample(pid: int) -> Sample:
    """Returns what a process holds now."""
    descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Sample(time.monotonic(), status_mb(pid, "VmRSS"), descriptors, int(_status(pid, "Threads")))


def status_mb(pid: int, name: str) -> float:
    """Returns a figure of `/proc/PID/status` in millions of bytes: VmRSS, what is resident; VmHWM, its peak."""
    return int(_status(pid, name).split()[0]) * 1024 / 1e6


def forget_peak(pid: int) -> None:
    """Begins VmHWM anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def growth(values: Sequence[float], *, first: tuple[float, float], last: tuple[float, float]) -> float:
    """Returns by which share the median of some values exceeds that of others before them.

    Args:
        values: in their order.
        first: from which share of all of them on, and up to which, those before.
        last: the same of the later ones.
    """
    before, after = (
        statistics.median(values[int(begin * len(values)) : max(int(begin * len(values)) + 1, int(end * len(values)))])
        for begin, end in (first, last)
    )
    return after / before - 1


def metrics(address: str) -> dict[str, float]:
    """Returns a server's metrics by name, each summed over its labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            sums[one.name] = sums.get(one.name, 0.0) + one.value
    return sums


def _status(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))
