"""`python -m benchmarks [NAME ...]`: measures, writes `benchmarks/results/NAME.json`, renews the README's tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import embed, overload, report, search, startup
from benchmarks.environment import environment

RESULTS = Path(__file__).parent / "results"
ALL = {"embed": embed.measure, "search": search.measure, "overload": overload.measure, "startup": startup.measure}


def main(names: list[str]) -> int:
    """Runs the named measurements, or all; returns the exit status."""
    if unknown := set(names) - ALL.keys():
        print(f"Unknown: {', '.join(sorted(unknown))}. There is: {', '.join(ALL)}.", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    for name in names or ALL:
        print(f"{name} ...", flush=True)
        result = {"environment": environment(), **ALL[name]()}
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps({key: result[key] for key in ("what", "median")}, indent=2))
    report.write(RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
