"""Promise 12: hundreds of thousands of calls, many of them given up, leave nothing behind and cost nothing more.

Calls of all kinds go to one server, 40 at a time: Embed, Search, Compare, UpsertItems and DeleteItems of a fixed set of
items, each with at most one small picture. A fifth is cancelled by the client, at a random moment of up to twice the
time that a call takes; three in ten have a deadline that may pass, one of them one that can't be kept. The first fifth
of the run is its warm-up; from then on neither memory nor open files nor threads may grow.

What the server's metrics say it computed is compared with what clients waited for: of the pictures whose caller left
only those may be computed that a lane had by then, or whose answer was on its way. Then callers that have filled the
queue leave all at once, and what is computed after that is counted: little, and all of it where they stay (control).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.serving import METRICS, Served, server
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from benchmarks.torture.soak_calls import CALLERS, PICTURES, Counts, call_many, fill, leave_at_once
from benchmarks.torture.watch import Sample, Watch, growth, metrics

CALLS, LEAST_CALLS = 300_000, 3_000
"""Of fewer, a fifth does not make all of the threads that calls need."""

FLAGS = ("--models", "base", "--batch-size", "2", *METRICS)
COMPUTED = "twinsight_batch_size_sum"
_DROPPED = "twinsight_dropped_images_total"
_WARM_UP = 0.2
_MOST_GROWTH, _MOST_MORE = 0.05, 3
_MOST_IN_VAIN = 0.25
"""Of the pictures whose caller left: four of the forty in flight are in a lane, and as many are on their way back."""

_MOST_AFTER = 32
"""Pictures computed after all callers have left: what the lanes had, and took before they were told."""

_QUIET_S = 60.0


def soaked(served: Served, calls: int, seed: int) -> tuple[Counts, dict[str, float]]:
    """Sends calls to a server; returns what became of them, and the growth of its metrics meanwhile."""
    before = quiet(served)
    counts = call_many(served.address, calls, seed)
    after = quiet(served)
    return counts, {name: value - before.get(name, 0.0) for name, value in after.items()}


def quiet(served: Served) -> dict[str, float]:
    """Waits until a server has nothing in work, and returns its metrics.

    Raises:
        RuntimeError: that does not come about.
    """
    end = time.monotonic() + _QUIET_S
    while time.monotonic() < end:
        found = metrics(served.metrics_address)
        if not found["twinsight_calls_in_flight"] and not found["twinsight_queued_images"]:
            return found
        time.sleep(0.05)
    raise RuntimeError(f"the server still has something in work after {_QUIET_S:g} s")


def left_at_once(served: Served, *, leave: bool) -> tuple[float, float]:
    """Fills the queue; returns the pictures that were not computed when the callers left, and those that were after.

    Args:
        served: the server.
        leave: whether the callers leave; otherwise they wait for their answers.
    """
    before = seen = quiet(served)

    def arrived() -> bool:
        nonlocal seen
        seen = metrics(served.metrics_address)
        return seen["twinsight_calls_in_flight"] >= CALLERS / 2

    leave_at_once(served.address, arrived, leave=leave)
    computed = seen[COMPUTED] - before[COMPUTED]
    return CALLERS * PICTURES - computed, quiet(served)[COMPUTED] - seen[COMPUTED]


def _flaws(counts: Counts, counted: Mapping[str, float], samples: list[Sample]) -> Iterator[str]:
    yield from counts.flaws
    in_vain = counted[COMPUTED] - counts.wanted
    if in_vain > _MOST_IN_VAIN * counts.given_up:
        yield f"{in_vain:.0f} pictures were computed for nobody, of {counts.given_up} whose caller left"
    if (grown := _growth([one.rss_mb for one in samples])) > _MOST_GROWTH:
        yield f"resident memory grew by {grown:.1%}, over {_MOST_GROWTH:.0%}"
    for what, values in (
        ("files", [one.descriptors for one in samples]),
        ("threads", [one.threads for one in samples]),
    ):
        first, last = _peak(values, _WARM_UP, 2 * _WARM_UP), _peak(values, 1 - _WARM_UP, 1.0)
        if last > first + _MOST_MORE:
            yield f"there were up to {first} {what} after the warm-up, and up to {last} at the end"


def _growth(values: list[float]) -> float:
    return growth(values, first=(_WARM_UP, _WARM_UP + 0.1), last=(0.9, 1.0))


def _peak(values: list[int], begin: float, end: float) -> int:
    return max(values[int(begin * len(values)) : max(int(begin * len(values)) + 1, int(end * len(values)))])


def run(scale: Scale) -> Outcome:
    """Sends calls to a server of its own."""
    calls = scale.of(CALLS, at_least=LEAST_CALLS)
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder, server(Path(folder), *FLAGS) as served:
        fill(served.address)
        with Watch(served.pid, every_s=min(2.0, calls / 10_000)) as watch:
            counts, counted = soaked(served, calls, scale.seed)
        waiting, after = left_at_once(served, leave=True)
        stayed, control = left_at_once(served, leave=False)
    failures = list(_flaws(counts, counted, watch.samples))
    if after > _MOST_AFTER:
        failures.append(
            f"{after:.0f} pictures were computed after their callers had left, of {waiting:.0f} that waited"
        )
    if min(waiting, stayed) < CALLERS * PICTURES / 4:
        failures.append(f"control: only {waiting:.0f} and {stayed:.0f} pictures waited when the callers might leave")
    if control < stayed / 2:
        failures.append(f"control: where callers stay, {control:.0f} of {stayed:.0f} that waited were computed")
    resident = [one.rss_mb for one in watch.samples]
    tenths = [resident[len(resident) * n // 10] for n in range(10)]
    figures: dict[str, Figure] = {
        **{code.lower(): count for code, count in counts.codes.most_common()},
        "computed": int(counted[COMPUTED]),
        "wanted": counts.wanted,
        "given up": counts.given_up,
        "dropped": int(counted.get(_DROPPED, 0.0)),
        "computed after all left": f"{after:.0f} of {waiting:.0f}",
        "where they stayed": f"{control:.0f} of {stayed:.0f}",
        "resident MB by tenths": " ".join(f"{one:.0f}" for one in [*tenths, resident[-1]]),
        "growth": f"{_growth(resident):+.1%}",
        "files": watch.samples[-1].descriptors,
        "threads": watch.samples[-1].threads,
    }
    return Outcome(calls, failures, figures)


PROMISE = Promise(
    number=12,
    name="soak",
    bar="300,000 calls, a fifth cancelled: memory grows by at most 5 % after the first fifth, files and threads do "
    "not; nothing is computed for callers that left but what a lane had by then",
    minutes=25.0,
    run=run,
)
