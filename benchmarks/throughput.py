"""How many pictures a second Embed makes vectors of, and what becomes of calls when more are asked for.

1. Closed loop: so many calls in flight, each of one JPEG, in turns with the same decoding and computing in a process
   without a server.
2. Open loop: calls are due at fixed times, at shares of the highest rate that was measured before; latency counts from
   when a call was due.
3. Twice that rate, in turns with a closed loop at the best number of calls in flight: what is still answered, and how
   soon the rest is refused.

The load comes from one process beside the server, on the same cores: `load_cores` and `server_cores` say what each
took.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks import load
from benchmarks.embed import SIZE, photograph
from benchmarks.extent import Extent
from benchmarks.inside import all_settings, inside
from benchmarks.load import Load
from benchmarks.measure import median_of, medians
from benchmarks.serving import Served, server
from benchmarks.targets import at_least, at_most

CONCURRENCIES = (1, 2, 4, 8, 16, 32)
JUDGED_AT = 16
SHARES = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
OVERLOAD = 2.0
_LONGER = 3
"""How much longer figures with a bar are measured than others: what else the machine does evens out."""

MOST_IN_FLIGHT = 200
"""Of an open loop: three times as many as the server works on at once, so that it refuses instead of being spared."""


def measure(extent: Extent) -> dict[str, object]:
    """Returns the figures of Embed under load."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jpeg = folder / "photograph.jpg"
        jpeg.write_bytes(photograph())
        with server(folder / "data") as served:
            closed, settings = _closed(jpeg, folder, served, extent)
            per_s = {n: median_of(runs, "per_s") for n, runs in closed.items()}
            best = max(per_s, key=lambda n: per_s[n])
            shares = extent.pick(SHARES, SHARES[::4])
            swept = [_open(jpeg, served, per_s[best], share, extent) for share in shares]
            overloads = [_overload(jpeg, served, best, extent) for _ in range(extent.runs)]
        size = jpeg.stat().st_size
    ratios = [run["per_s"] / run["in_process_per_s"] for run in closed[JUDGED_AT]]
    return {
        "what": f"Embed of one JPEG of {SIZE[0]}x{SIZE[1]} ({size} bytes) a call; cores used are of {os.cpu_count()}",
        "in_process": settings,
        "closed": [{"concurrency": n, **medians(runs), "runs": runs} for n, runs in closed.items()],
        "capacity": {"per_s": per_s[best], "concurrency": best},
        "open": swept,
        "overload": {"rate_of_capacity": OVERLOAD, **medians(overloads), "runs": overloads},
        "targets": [
            at_least(0.9, f"Embed throughput with {JUDGED_AT} calls in flight / the same work in process", ratios),
            at_least(
                0.9,
                "Embed throughput when offered twice the capacity / capacity",
                [run["per_s"] / run["capacity"] for run in overloads],
            ),
            at_most(
                50,
                "Time to a refusal when offered twice the capacity, p99",
                [run.get("refused_p99_ms", 0.0) for run in overloads],
                unit="ms",
            ),
        ],
    }


def _closed(
    jpeg: Path, folder: Path, served: Served, extent: Extent
) -> tuple[dict[int, list[dict[str, float]]], dict[str, object]]:
    """Returns each concurrency's runs, and the settings of the process without a server."""
    seconds = extent.pick(1.5, 0.7)
    concurrencies = extent.pick(CONCURRENCIES, (1, JUDGED_AT))
    closed: dict[int, list[dict[str, float]]] = {n: [] for n in concurrencies}
    with inside(jpeg, folder) as work:
        work.choose(all_settings()[:: extent.pick(1, 3)], in_flight=JUDGED_AT, seconds=seconds / 2)
        for _ in range(extent.runs):
            for n in concurrencies:
                measured_s = seconds * (_LONGER if n == JUDGED_AT else 1)
                alone = work.per_s(n, measured_s)
                with_server = load.run(Load("embed", jpeg, concurrency=n, seconds=measured_s), served)
                closed[n].append({**with_server, "in_process_per_s": alone})
        return closed, {**work.settings, "tried": work.tried}


def open_loop(
    jpeg: Path, served: Served, capacity: float, share: float, *, seconds: float, warm_up_s: float
) -> dict[str, float]:
    """Returns the figures of calls that are due at a share of the server's capacity, which may be above it."""
    rate = max(capacity * share, 1.0)
    sent = Load("embed", jpeg, concurrency=MOST_IN_FLIGHT, rate=rate, seconds=seconds, warm_up_s=warm_up_s)
    return {"share": share, "rate": round(rate, 1), **load.run(sent, served)}


def _open(
    jpeg: Path, served: Served, capacity: float, share: float, extent: Extent, *, longer: float = 1
) -> dict[str, float]:
    seconds, warm_up_s = extent.pick((3.0, 1.0), (1.0, 0.5))
    return open_loop(jpeg, served, capacity, share, seconds=longer * seconds, warm_up_s=warm_up_s)


def _overload(jpeg: Path, served: Served, best: int, extent: Extent) -> dict[str, float]:
    seconds = extent.pick(5.0, 1.0)
    capacity = load.run(Load("embed", jpeg, concurrency=best, seconds=seconds), served)["per_s"]
    return {"capacity": capacity, **_open(jpeg, served, capacity, OVERLOAD, extent, longer=extent.pick(2, 1))}
