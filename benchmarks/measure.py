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
    works: Mapping[str, Callable[[], object]],
    *,
    count: int,
    warm_up: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Returns the milliseconds of each work, done in turns: what else the machine does falls on all of them alike.

    Args:
        works: by name.
        count: turns that are timed.
        warm_up: turns before them.
        clock: in seconds; `time.process_time` counts the processor's time of this process alone.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(warm_up + count):
        for name, work in works.items():
            start = clock()
            work()
            if turn >= warm_up:
                times[name].append((clock() - start) * 1e3)
    return times


def summary(times: Sequence[float]) -> dict[str, float]:
    """Returns median, p95 and p99, in the unit of `times`, rounded to a microsecond of a millisecond."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"p50": round(cuts[49], 3), "p95": round(cuts[94], 3), "p99": round(cuts[98], 3)}


def median_of(runs: Sequence[dict[str, float]], name: str) -> float:
    """Returns the median over runs of one figure."""
    return round(statistics.median(run[name] for run in runs), 3)


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the medians of the figures that all runs have."""
    return {name: median_of(runs, name) for name in runs[0] if all(name in run for run in runs)}
