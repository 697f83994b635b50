"""Workers as the run sees them: started, asked, and always ended, with whatever they left behind."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.peers.orders import Answer, Order

ROOT = Path(__file__).parents[2]
END_S = 30.0
"""How long a worker may take to stop its server by itself."""
_PR_SET_CHILD_SUBREAPER = 36
_living: set[int] = set()


class PeerFailed(Exception):
    """A peer could not be installed, started or measured; the message says why."""


class Worker:
    """A worker process. Use as a context manager, or `close` it."""

    def __init__(self, python: Path, module: str, log: Path) -> None:
        """Starts the process.

        Args:
            python: of the peer's environment.
            module: with what `worker` names.
            log: file that takes what the process and its server print.
        """
        self._log = log
        command = [str(python), "-m", "benchmarks.peers.worker", module]
        with log.open("ab") as printed:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                cwd=ROOT,
                text=True,
                start_new_session=True,
            )
        _living.add(self._process.pid)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, order: Order, *, timeout_s: float = 120.0) -> Answer:
        """Returns what came of an order.

        Raises:
            PeerFailed: the worker says so, died, or did not answer in time.
        """
        self.send(order)
        return self.answer(timeout_s=timeout_s)

    def send(self, order: Order) -> None:
        """Gives an order whose `answer` is fetched later."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(order.line() + "\n")
                self._process.stdin.flush()
        except OSError as error:
            raise PeerFailed(f"The process is gone. {self._last_words()}") from error

    def answer(self, *, timeout_s: float) -> Answer:
        """Returns what came of the order that was sent; see `ask`."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise PeerFailed(f"No answer within {timeout_s:g} s. {self._last_words()}") from None
        if not line:
            raise PeerFailed(f"The process ended with status {self._process.wait()}. {self._last_words()}")
        answer = Answer.parse(line)
        if answer.error:
            raise PeerFailed(f"{answer.error} {self._last_words()}")
        return answer

    def pause(self) -> None:
        """Stops the process and its children where they are, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets them go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends the process and its children; safe to call again."""
        if self._process.pid not in _living:
            return
        self.resume()
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._signal(signal.SIGKILL)
        self._process.wait()
        _living.discard(self._process.pid)
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        # Children stay in the group when their parent is gone.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put("")

    def _last_words(self) -> str:
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return f"It printed last: {lines[-1][:300]}" if lines else "It printed nothing."


_adopting = threading.Event()


def adopt_orphans() -> None:
    """Makes this process the parent of what its workers leave behind, so that `end_orphans` finds it."""
    _adopting.set()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans() -> int:
    """Ends the children of this process that are no living workers, if it adopts: servers that left their session."""
    ended = 0
    while _adopting.is_set() and (orphans := [pid for pid in _children() if pid not in _living]):
        for pid in orphans:
            _end(pid)
        ended += len(orphans)
    return ended


def _children() -> list[int]:
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended meanwhile
            found += [int(pid) for pid in thread.joinpath("children").read_text().split()]
    return found


def _end(pid: int, *, within_s: float = 10.0) -> None:
    for number, wait_s in ((signal.SIGTERM, within_s), (signal.SIGKILL, within_s)):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    time.sleep(0.05)
                    continue
            return


def ask_all(workers: Sequence[Worker], order: Order, *, timeout_s: float) -> list[Answer]:
    """Returns what came of one order that all carry out at the same time."""
    for worker in workers:
        worker.send(order)
    return [worker.answer(timeout_s=timeout_s) for worker in workers]
