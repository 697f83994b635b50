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
    """

    address: str
    start_s: float
    pid: int


@contextmanager
def server(data_dir: Path, *flags: str) -> Iterator[Served]:
    """Runs `twinsight serve` on a free port, logging errors alone."""
    twinsight = Path(sys.executable).parent / "twinsight"
    command = [str(twinsight), "serve", "--listen", "127.0.0.1:0", "--data-dir", str(data_dir), "--log-level", "error"]
    start = time.perf_counter()
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith("serving on "):
                raise RuntimeError("The server did not start; its message is above.")
            yield Served(line.split()[-1], time.perf_counter() - start, process.pid)
        finally:
            process.terminate()
