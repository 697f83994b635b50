"""Seconds from the start of the process to SERVING, with an empty and with a warm cache of compiled programs."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.extent import Extent
from benchmarks.serving import server


def measure(extent: Extent) -> dict[str, object]:
    """Returns the start-up times; the first start of each folder is cold, the others warm."""
    with tempfile.TemporaryDirectory() as folder:
        times = [_start(Path(folder)) for _ in range(extent.runs + 1)]
    return {
        "what": "Process start to SERVING, all shipped models, every batch size",
        "cold_s": round(times[0], 2),
        "warm_s": [round(one, 2) for one in times[1:]],
        "median": {"warm_s": round(statistics.median(times[1:]), 2)},
    }


def _start(folder: Path) -> float:
    with server(folder / "data", "--cache-dir", str(folder / "cache")) as served:
        return served.start_s
