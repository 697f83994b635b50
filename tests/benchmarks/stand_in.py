"""A peer without a peer: what the tests of the comparison have workers run. Only the standard library is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.orders import Settings

WAITING = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@contextmanager
def serve(settings: Settings) -> Iterator[Settings]:
    """Starts a server that leaves its worker's session, and forgets it; settings: folder."""
    read, _ = os.pipe()
    server = subprocess.Popen(WAITING, stdin=read, start_new_session=True)
    Path(str(settings["folder"]), "server.pid").write_text(str(server.pid))
    yield {"pid": server.pid}


def fill(settings: Settings) -> Settings:
    """Fails, or ends the process; settings: die."""
    if settings["die"]:
        os.write(2, b"the last words\n")
        os._exit(3)
    raise ValueError("no room")


def subject(settings: Settings) -> _Counting:
    """Returns what counts its calls; settings: fail_at."""
    return _Counting(int(settings.get("fail_at", -1)))


class _Counting:
    """Returns the numbers that it is called with."""

    def __init__(self, fail_at: int) -> None:
        self.facts: Settings = {"made": True}
        self._fail_at = fail_at

    def call(self, number: int) -> int:
        if number == self._fail_at:
            raise ConnectionError("the server is gone")
        os.write(1, b"libraries print\n")
        return number

    def batch(self, first: int, size: int) -> list[int]:
        return [self.call(first + place) for place in range(size)]

    def values(self, number: int) -> list[float]:
        return [float(self.call(number))]

    def close(self) -> None:
        """Nothing to end."""
