"""Processes that may die: forked from one that has the core imported, so that starting one takes milliseconds."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import TypeVarTuple

Rest = TypeVarTuple("Rest")

_LINE_S = 120.0

_context: ForkServerContext = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["twinsight_core.collections.collection"])


class Child:
    """A running process and the lines that it tells."""

    def __init__(self, process: BaseProcess, lines: Connection) -> None:
        self._process = process
        self._lines = lines

    def line(self, timeout_s: float) -> str | None:
        """Waits for the next line; None: none came in time, or the process is gone and has told all."""
        try:
            if not self._lines.poll(timeout_s):
                return None
            return self._lines.recv_bytes().decode()
        except (EOFError, ConnectionResetError):
            return None

    def rest(self) -> list[str]:
        """Returns the lines that were not read yet; the process must be gone or about to end."""
        lines: list[str] = []
        while (line := self.line(60.0)) is not None:
            lines.append(line)
        return lines

    def kill(self) -> None:
        """Sends SIGKILL and waits for the end."""
        self._process.kill()
        self._process.join()

    def told_until_killed(self, count: int, *, pause: float) -> list[str]:
        """Kills it after it has told some lines, and returns all that it told.

        Args:
            count: of lines to wait for.
            pause: from then to the kill, in times that a line took: up to that many more are told.
        """
        begun = time.monotonic()
        lines: list[str] = []
        while len(lines) < count and (line := self.line(_LINE_S)) is not None:
            lines.append(line)
        # While a collection opens there is but one line, and opening takes about a tenth of a second.
        a_line = (time.monotonic() - begun) / len(lines) if len(lines) > 1 else 0.03
        time.sleep(pause * a_line)
        self.kill()
        return lines + self.rest()

    def ended(self) -> str:
        """Waits for the end and returns how it ended; empty: well."""
        self._process.join()
        code = self._process.exitcode or 0
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"ended with {code}" if code else ""


@contextmanager
def child(work: Callable[[Connection, *Rest], None], *arguments: *Rest) -> Iterator[Child]:
    """Runs `work(lines, *arguments)` in a process of its own; what still runs at the end is killed.

    Args:
        work: a function of a module; it tells lines by `lines.send_bytes`.
        arguments: what can be pickled.
    """
    receiving, sending = _context.Pipe(duplex=False)
    process = _context.Process(target=work, args=(sending, *arguments), daemon=True)
    process.start()
    sending.close()
    try:
        yield Child(process, receiving)
    finally:
        process.kill()
        process.join()
        process.close()
        receiving.close()
