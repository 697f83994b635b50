"""Promise 11: a server that is told to stop ends what it has begun, loses nothing, and is gone in time.

In each round clients embed, search, write and stream; at a random moment the server gets SIGTERM. Whoever watches its
health must hear NOT_SERVING before the first call is refused; every call, and every message of a stream, that was sent
before must be answered; the process must end by itself, with exit code 0, within the time that it is given. The next
round's server must have every write that was acknowledged. A last round ends with SIGKILL instead, to see that the same
clients tell a server that just dies.
"""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.embed import photograph
from benchmarks.serving import process
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from benchmarks.torture.shutdown_clients import COLLECTION, DIMENSION, OK, Clients, Told, flaws, vector_of
from twinsight_client import Client

ROUNDS = 30
DRAIN_S = 20.0
FLAGS = ("--models", "base", "--batch-size", "2", "--drain-s", f"{DRAIN_S:g}")
_LEAST_CALLS, _CALLS_S = 20, 120.0
_HANGS_S = DRAIN_S + 60.0
_ITEMS = 1000


class Rounds:
    """Servers of one data folder, one after another.

    Args:
        data_dir: the folder.
        seed: chooses the moments.
        flags: of the servers.

    Attributes:
        failures: what went against the promise.
        calls: that were sent.
        refused: calls among them that were refused.
        acknowledged: items whose writing was answered.
        slowest_s: longest time from SIGTERM to the end.
    """

    def __init__(self, data_dir: Path, seed: int, flags: Sequence[str] = FLAGS) -> None:
        self._data_dir = data_dir
        self._seed = seed
        self._rng = random.Random(seed)
        self._flags = flags
        self._picture = photograph()
        self.failures: list[str] = []
        self.calls = self.refused = 0
        self.acknowledged: set[str] = set()
        self.slowest_s = 0.0

    def stop(self, number: int, how: signal.Signals = signal.SIGTERM) -> list[str]:
        """Lets clients work on a server and ends it; returns what went against the promise, and keeps it."""
        with process(self._data_dir, *self._flags) as (served, running):
            found = list(self._lost(served.address))
            clients = Clients(served.address, self._picture, f"round{number}")
            worked = clients.wait(_LEAST_CALLS, _CALLS_S)
            time.sleep(self._rng.uniform(0.0, 1.0))
            stopped = time.monotonic()
            running.send_signal(how)
            found += _end(running, stopped)
            self.slowest_s = max(self.slowest_s, time.monotonic() - stopped)
            told = clients.join()
        if not worked:
            found.append(f"{len(told.ended)} calls were over in {_CALLS_S:g} s")
        found += flaws(told, stopped)
        self._count(told)
        found = [f"seed {self._seed}, round {number}: {one}" for one in found]
        self.failures += found
        return found

    def check_writes(self) -> None:
        """Starts a last server, to see that it has all that was acknowledged."""
        with process(self._data_dir, *self._flags) as (served, _):
            self.failures += self._lost(served.address)

    def _lost(self, address: str) -> Iterator[str]:
        with Client(address) as client:
            if not self.acknowledged:
                client.create_collection(COLLECTION, dimension=DIMENSION)
            names = sorted(self.acknowledged)
            for start in range(0, len(names), _ITEMS):
                ids = names[start : start + _ITEMS]
                items = client.get_items(COLLECTION, ids, include_vectors=True)
                for name, item in zip(ids, items, strict=True):
                    vector = getattr(item, "vector", None)
                    if vector is None or not np.array_equal(vector, vector_of(name)):
                        yield f"{name}, which was acknowledged, is {item}"

    def _count(self, told: Told) -> None:
        self.calls += len(told.ended)
        self.refused += sum(one.code != OK for one in told.ended)
        self.acknowledged |= told.acknowledged


def _end(running: subprocess.Popen[str], stopped: float) -> Iterator[str]:
    try:
        code = running.wait(_HANGS_S)
    except subprocess.TimeoutExpired:
        running.kill()
        yield f"the server still ran {_HANGS_S:g} s after the signal"
        return
    took_s = time.monotonic() - stopped
    if code != 0:
        yield f"the server ended with {code}"
    if took_s > DRAIN_S:
        yield f"the server took {took_s:.1f} s to end, over {DRAIN_S:g} s"


def run(scale: Scale) -> Outcome:
    """Stops servers of one data folder again and again."""
    count = scale.of(ROUNDS)
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as name:
        rounds = Rounds(Path(name) / "data", scale.seed)
        for number in range(count):
            rounds.stop(number)
        rounds.check_writes()
        control = Rounds(Path(name) / "control", scale.seed)
        if not control.stop(0, signal.SIGKILL):
            rounds.failures.append("control: a server that was killed broke nothing")
    figures: dict[str, Figure] = {
        "calls": rounds.calls,
        "refused after": rounds.refused,
        "acknowledged items": len(rounds.acknowledged),
        "slowest end s": round(rounds.slowest_s, 2),
        "broken by SIGKILL": len(control.failures),
    }
    return Outcome(count, rounds.failures, figures)


PROMISE = Promise(
    number=11,
    name="shutdown",
    bar="30 x SIGTERM under load: NOT_SERVING before the first refusal, 0 calls in flight fail, 0 acknowledged writes "
    f"lost, exit code 0 within {DRAIN_S:g} s",
    minutes=4.0,
    run=run,
)
