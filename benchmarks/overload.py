"""How soon a full server refuses: many callers at once against a small queue.

The callers share this process and the machine's cores with the server, so their times hold their own waiting too.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.embed import photograph
from benchmarks.measure import summary
from benchmarks.serving import server
from twinsight_client import Client, ResourceExhausted, RetryPolicy

CALLERS = 12
SECONDS = 10.0
FLAGS = ("--queue-size", "8", "--max-images", "8", "--batch-size", "4", "--max-calls", "8")


def measure() -> dict[str, object]:
    """Returns the times of refused and of answered calls."""
    image = photograph()
    with (
        tempfile.TemporaryDirectory() as data,
        server(Path(data), *FLAGS) as served,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        done = list(pool.map(lambda _: _call_for(served.address, image), range(CALLERS)))
    refused = [one for caller in done for one in caller[0]]
    answered = [one for caller in done for one in caller[1]]
    missing = sum(caller[2] for caller in done)
    return {
        "what": f"{CALLERS} callers for {SECONDS:.0f} s, Embed of 4 JPEGs of 500x375, a queue of 8 pictures",
        "median": {"refused_p50_ms": summary(refused)["p50"], "refused_p99_ms": summary(refused)["p99"]},
        "refused": {"count": len(refused), **summary(refused), "max": round(max(refused), 3)},
        "answered": {"count": len(answered), **summary(answered)},
        "refusals_without_retry_time": missing,
    }


def _call_for(address: str, image: bytes) -> tuple[list[float], list[float], int]:
    """Calls until the time is over, backing off as it is told; returns times of refusals and of answers in ms."""
    refused: list[float] = []
    answered: list[float] = []
    missing = 0
    end = time.perf_counter() + SECONDS
    with Client(address, retry=RetryPolicy(attempts=1)) as client:
        while (start := time.perf_counter()) < end:
            try:
                client.embed([image] * 4)
            except ResourceExhausted as error:
                refused.append((time.perf_counter() - start) * 1e3)
                missing += error.retry_after_s is None
                time.sleep(error.retry_after_s or 0.05)
            else:
                answered.append((time.perf_counter() - start) * 1e3)
    return refused, answered, missing
