"""Promise 10: at four times what a server can do, it goes on doing nearly as much, and refuses the rest at once.

1. A closed loop finds the capacity: Embed of one JPEG a call, at the best of some numbers of calls in flight, measured
   anew, since the best of several figures is partly luck.
2. For two minutes calls are due at four times that rate, whether or not others are answered (an open loop). Those that
   are not answered must be refused, soon, and be told when to come again; the server's memory must not grow.
3. The closed loop of 1 again: nothing of it has stayed.

The load comes from a process of its own, on the same cores: `load cores` and `server cores` say what each took.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import load
from benchmarks.embed import photograph
from benchmarks.load import Load
from benchmarks.serving import Served, server
from benchmarks.throughput import open_loop
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from benchmarks.torture.watch import Watch, growth

TIMES = 4.0
SECONDS, CAPACITY_S = 120.0, 10.0
CONCURRENCIES = (8, 16, 32)
_LEAST_GOODPUT, _LEAST_AFTER, _LEAST_OFFERED = 0.8, 0.9, 0.95
_MOST_REFUSED_MS = 50.0
_MOST_GROWTH = 0.05


def overloaded(
    jpeg: Path, served: Served, *, seconds: float, capacity_s: float, concurrencies: tuple[int, ...] = CONCURRENCIES
) -> dict[str, float]:
    """Returns the figures of a server that is asked for four times what it can do.

    Args:
        jpeg: the picture that is sent.
        served: the server.
        seconds: how long it is overloaded.
        capacity_s: how long each measurement of its capacity takes.
        concurrencies: numbers of calls in flight, of which the best is kept to.
    """

    def closed(concurrency: int) -> float:
        return load.run(Load("embed", jpeg, concurrency=concurrency, seconds=capacity_s), served)["per_s"]

    best = max(concurrencies, key=closed)
    capacity = closed(best)
    with Watch(served.pid, every_s=min(1.0, seconds / 40)) as watch:
        figures = open_loop(jpeg, served, capacity, TIMES, seconds=seconds, warm_up_s=seconds / 20)
    resident = [one.rss_mb for one in watch.samples]
    started = figures["answered"] + figures["refused"] + figures["failed"]
    return figures | {
        "capacity": capacity,
        "goodput": figures["per_s"] / capacity,
        "offered": TIMES * started / max(1.0, started + figures["not_started"]),
        "after": closed(best) / capacity,
        # The threads of the calls, and what they touch first, belong to the beginning.
        "growth": growth(resident, first=(0.2, 0.4), last=(0.8, 1.0)),
        "resident_mb": resident[-1],
    }


def miscounted(figures: Mapping[str, float]) -> Iterator[str]:
    """Yields what is wrong with the calls, whatever the machine: ends that are neither answers nor proper refusals."""
    if figures["failed"]:
        yield f"{figures['failed']:.0f} calls were neither answered nor refused for load"
    if figures["refused_for_good"]:
        yield f"{figures['refused_for_good']:.0f} calls were refused without being told when to come again"
    if not figures["answered"]:
        yield "no call was answered"


def missed(figures: Mapping[str, float]) -> Iterator[str]:
    """Yields the bars that were missed."""
    if figures["goodput"] < _LEAST_GOODPUT:
        yield f"{figures['goodput']:.1%} of the capacity was still answered, not {_LEAST_GOODPUT:.0%}"
    if figures.get("refused_p99_ms", 0.0) > _MOST_REFUSED_MS:
        yield f"the p99 of refusals is {figures['refused_p99_ms']:.1f} ms, not {_MOST_REFUSED_MS:g} ms"
    if figures["offered"] < _LEAST_OFFERED * TIMES:
        yield f"the load came to {figures['offered']:.2f} times the capacity, not to {TIMES:g} times"
    if figures["after"] < _LEAST_AFTER:
        yield f"{figures['after']:.1%} of the capacity was there afterwards, not {_LEAST_AFTER:.0%}"
    if figures["growth"] > _MOST_GROWTH:
        yield f"resident memory grew by {figures['growth']:.1%}, over {_MOST_GROWTH:.0%}"


def run(scale: Scale) -> Outcome:
    """Overloads a server with its defaults."""
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as name:
        jpeg = Path(name) / "photograph.jpg"
        jpeg.write_bytes(photograph())
        with server(Path(name) / "data") as served:
            shown = overloaded(
                jpeg,
                served,
                seconds=scale.seconds(SECONDS, at_least=4.0),
                capacity_s=scale.seconds(CAPACITY_S, at_least=2.0),
            )
    figures: dict[str, Figure] = {
        "capacity/s": shown["capacity"],
        "offered": f"{shown['offered']:.2f} x",
        "goodput": f"{shown['goodput']:.1%}",
        "refused": int(shown["refused"]),
        **{f"refused {one} ms": round(shown.get(f"refused_{one}_ms", 0.0), 1) for one in ("p50", "p99", "max")},
        "after": f"{shown['after']:.1%}",
        "resident MB": round(shown["resident_mb"]),
        "growth": f"{shown['growth']:+.1%}",
        "server cores": shown["server_cores"],
        "load cores": shown["load_cores"],
    }
    calls = int(shown["answered"] + shown["refused"] + shown["failed"])
    return Outcome(calls, [*miscounted(shown), *missed(shown)], figures)


PROMISE = Promise(
    number=10,
    name="overload",
    bar="at 4 x the capacity for 2 minutes: at least 80 % of it answered, the rest refused with RetryInfo, p99 50 ms; "
    "memory flat; 90 % of it right afterwards",
    minutes=3.5,
    run=run,
)
