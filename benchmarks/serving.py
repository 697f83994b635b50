"""A server as a process of its own, as users run it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from twinsight_core.executors.base import Executor
from twinsight_core.executors.choice import choose_executor
from twinsight_core.packages import ModelPackage
from twinsight_server.config import ServerConfig


def served_executor(package: ModelPackage) -> Executor:
    """Returns what computes a model's batches in a server with its defaults."""
    config = ServerConfig()
    return choose_executor(package, config.executor, cache_dir=config.cache / "exported")


@dataclass(frozen=True)
class Served:
    """A server that serves.

    Attributes:
        address: HOST:PORT.
        start_s: seconds from the start of the process to SERVING.
        pid: of the process.
        metrics_address: HOST:PORT of the metrics; empty: they were not asked for.
    """

    address: str
    start_s: float
    pid: int
    metrics_address: str = ""


METRICS = ("--metrics-listen", "127.0.0.1:0")
"""Flags that ask for metrics."""


@contextmanager
def server(data_dir: Path, *flags: str) -> Iterator[Served]:
    """Runs `twinsight serve` on a free port, logging errors alone."""
    with process(data_dir, *flags) as (served, _):
        yield served


@contextmanager
def process(data_dir: Path, *flags: str) -> Iterator[tuple[Served, subprocess.Popen[str]]]:
    """The same, for those who end it themselves."""
    twinsight = Path(sys.executable).parent / "twinsight"
    command = [str(twinsight), "serve", "--listen", "127.0.0.1:0", "--data-dir", str(data_dir), "--log-level", "error"]
    start = time.perf_counter()
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True) as running:
        try:
            address = _told(running, "serving on")
            seconds = time.perf_counter() - start
            metrics = _told(running, "metrics on") if set(METRICS) <= set(flags) else ""
            yield Served(address, seconds, running.pid, metrics), running
        finally:
            running.terminate()


def _told(running: subprocess.Popen[str], what: str) -> str:
    line = running.stdout.readline() if running.stdout else ""
    if not line.startswith(f"{what} "):
        raise RuntimeError("The server did not start; its message is above.")
    return line.split()[-1]
