"""Measures, writes `benchmarks/results/NAME.json`, and renews the tables and plots that are made of them.

    python -m benchmarks [--only NAME ...] [--quick] [--million]
    python -m benchmarks --plots

Everything takes about 25 minutes on two cores, with nothing else running. Each result is written, and shown in
README.md and docs/performance.md, as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import embed, growth, ingest, memory, recall, report, search, startup, throughput
from benchmarks.environment import environment
from benchmarks.extent import QUICK_RESULTS, Extent

RESULTS = Path(__file__).parent / "results"
ALL: dict[str, Callable[[Extent], dict[str, object]]] = {
    "embed": embed.measure,
    "search": search.measure,
    "throughput": throughput.measure,
    "ingest": ingest.measure,
    "memory": memory.measure,
    "recall": recall.measure,
    "growth": growth.measure,
    "startup": startup.measure,
}


def main(arguments: list[str]) -> int:
    """Runs what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ALL, metavar="NAME", help=f"of {', '.join(ALL)} [all]")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"measure little, to see that it works; results and plots go to {QUICK_RESULTS}, no document is changed",
    )
    parser.add_argument(
        "--million", action="store_true", help="grow a collection to a million vectors too, which takes much longer"
    )
    parser.add_argument(
        "--plots", action="store_true", help="draw and write from the results there are; measure nothing"
    )
    asked = parser.parse_args(arguments)
    places = report.Places(QUICK_RESULTS, None, None, QUICK_RESULTS) if asked.quick else report.Places(RESULTS)
    places.results.mkdir(exist_ok=True)
    for name in () if asked.plots else asked.only or ALL:
        print(f"{name} ...", flush=True)
        begun = time.perf_counter()
        result = {"environment": environment(), **ALL[name](Extent(quick=asked.quick, million=asked.million))}
        (places.results / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps({key: result[key] for key in ("what", "median", "targets") if key in result}, indent=2))
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
        report.write(places)
    if asked.plots:
        report.write(places)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
