"""`python -m benchmarks.torture`: tries every promise at length and writes `benchmarks/results/torture.json`.

Exits with 1 where a promise did not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment
from benchmarks.torture.promise import Outcome, Promise, Scale
from benchmarks.torture.registry import PROMISES

RESULT = Path(__file__).parents[1] / "results/torture.json"
_SHOWN_FAILURES = 20


def main() -> int:
    """Tries the chosen promises; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument("--only", help=f"some of {','.join(PROMISES)}; the others stay as they were written")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the long form's cases [%(default)s]")
    parser.add_argument("--minutes", type=float, help="of what runs against the clock [10 times the scale]")
    parser.add_argument("--seed", type=int, default=0, help="chooses moments and damages [%(default)s]")
    parser.add_argument("--out", type=Path, default=RESULT, help="file of the results [%(default)s]")
    chosen = parser.parse_args()
    names = chosen.only.split(",") if chosen.only else list(PROMISES)
    if unknown := set(names) - PROMISES.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there is {', '.join(PROMISES)}")
    minutes = 10.0 * chosen.scale if chosen.minutes is None else chosen.minutes
    scale = Scale(factor=chosen.scale, seed=chosen.seed, minutes=minutes)
    out: Path = chosen.out
    results: dict[str, object] = json.loads(out.read_text("utf-8")) if out.exists() else {}
    outcomes: dict[str, Outcome] = {}
    for name in names:
        print(f"{name} ...", flush=True)
        begun = time.monotonic()
        outcome = outcomes[name] = PROMISES[name].run(scale)
        results[name] = _entry(PROMISES[name], scale, outcome, time.monotonic() - begun)
        out.parent.mkdir(parents=True, exist_ok=True)
        # After each, so that what runs for an hour leaves what it has shown.
        out.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    Console().print(_table(outcomes))
    for name, outcome in outcomes.items():
        for failure in outcome.failures[:_SHOWN_FAILURES]:
            print(f"{name}: {failure}", file=sys.stderr)
    return 1 if any(outcome.failures for outcome in outcomes.values()) else 0


def _entry(promise: Promise, scale: Scale, outcome: Outcome, seconds: float) -> dict[str, object]:
    return {
        "environment": environment(),
        "number": promise.number,
        "bar": promise.bar,
        "scale": scale.factor,
        "seed": scale.seed,
        "seconds": round(seconds, 1),
        "cases": outcome.cases,
        "holds": not outcome.failures,
        "failures": len(outcome.failures),
        "first_failures": list(outcome.failures[:_SHOWN_FAILURES]),
        "figures": outcome.figures,
    }


def _table(outcomes: dict[str, Outcome]) -> Table:
    table = Table("", "promise", "cases", "failures", "bar", "figures")
    for name, outcome in outcomes.items():
        promise = PROMISES[name]
        figures = ", ".join(f"{key} {value}" for key, value in outcome.figures.items())
        failures = f"[red]{len(outcome.failures)}[/red]" if outcome.failures else "0"
        table.add_row(str(promise.number), name, f"{outcome.cases:,}", failures, promise.bar, figures)
    return table


if __name__ == "__main__":
    sys.exit(main())
