"""Times of something done again and again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def times_ms(work: Callable[[], object], *, count: int, warm_up: int = 20) -> list[float]:
    """Returns the milliseconds that each of `count` calls took, after `warm_up` that do not count."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def interleaved_ms(
    works: Mapping[str, Callable[[], object]], *, count: int, warm_up: int = 20, at_a_time: int = 10
) -> dict[str, list[float]]:
    """Returns the milliseconds of each work, done in turns: what else the machine does falls on all of them alike.

    A turn is of several calls, of which the first does not count: it finds the processor's caches full of the others'
    data, as no work does that is done again and again.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        for _ in range(warm_up):
            work()
    for _ in range(-(-count // at_a_time)):
        for name, work in works.items():
            times[name] += times_ms(work, count=at_a_time, warm_up=1)
    return times


def summary(times: Sequence[float]) -> dict[str, float]:
    """Returns median, p95 and p99, in the unit of `times`, rounded to a microsecond of a millisecond."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"p50": round(cuts[49], 3), "p95": round(cuts[94], 3), "p99": round(cuts[98], 3)}


def median_of(runs: Sequence[dict[str, float]], name: str) -> float:
    """Returns the median over runs of one figure."""
    return round(statistics.median(run[name] for run in runs), 3)
