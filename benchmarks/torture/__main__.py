"""`python -m benchmarks.torture`: tries every promise at length and writes `benchmarks/results/torture.json`.

Exits with 1 where a promise did not hold. What is tried replaces its earlier results; the others stay, each with the
scale and the commit of its own. The table of `docs/reliability.md` is made of all of them (`report`).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.environment import environment
from benchmarks.torture import report
from benchmarks.torture.promise import Outcome, Promise, Scale
from benchmarks.torture.registry import PROMISES

RESULT = Path(__file__).parents[1] / "results/torture.json"
_SHOWN_FAILURES = 20
_WIDTH = 160
"""Of the table in a file."""


def main(arguments: list[str]) -> int:
    """Tries the chosen promises; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torture",
        description=__doc__,
        epilog="At full length on two cores, in minutes: "
        + ", ".join(f"{name} {promise.minutes:g}" for name, promise in PROMISES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", help="some of the names below, with commas between")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the long form's cases [%(default)s]")
    parser.add_argument("--minutes", type=float, help="for all together, instead of --scale: chooses the share")
    parser.add_argument("--seed", type=int, default=0, help="chooses moments and damages [%(default)s]")
    parser.add_argument(
        "--out", type=Path, default=RESULT, help="file of the results; the document's table is made of the usual one"
    )
    chosen = parser.parse_args(arguments)
    names: list[str] = chosen.only.split(",") if chosen.only else list(PROMISES)
    if unknown := set(names) - PROMISES.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there is {', '.join(PROMISES)}")
    factor: float = chosen.scale
    if chosen.minutes is not None:
        factor = min(1.0, chosen.minutes / sum(PROMISES[name].minutes for name in names))
    out: Path = chosen.out
    outcomes = _try_all(names, Scale(factor, chosen.seed), out)
    if out == RESULT:
        report.write(out)
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(_table(outcomes))
    for name, outcome in outcomes.items():
        for failure in outcome.failures[:_SHOWN_FAILURES]:
            print(f"{name}: {failure}", file=sys.stderr)
    return 1 if any(outcome.failures for outcome in outcomes.values()) else 0


def _try_all(names: list[str], scale: Scale, out: Path) -> dict[str, Outcome]:
    results: dict[str, object] = json.loads(out.read_text("utf-8")) if out.exists() else {}
    outcomes: dict[str, Outcome] = {}
    for name in names:
        print(f"{name} ...", flush=True)
        begun = time.monotonic()
        outcome = outcomes[name] = tried(PROMISES[name], scale)
        seconds = time.monotonic() - begun
        print(f"{name}: {'broken' if outcome.failures else 'holds'}, {seconds:.0f} s", flush=True)
        results[name] = entry(PROMISES[name], scale, outcome, seconds)
        out.parent.mkdir(parents=True, exist_ok=True)
        # After each, so that what runs for an hour leaves what it has shown.
        out.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    return outcomes


def tried(promise: Promise, scale: Scale) -> Outcome:
    """Returns what trying shows; that it can't be tried is a failure, and the others are tried all the same."""
    try:
        return promise.run(scale)
    except Exception as error:  # noqa: BLE001 - whatever it is
        traceback.print_exc()
        return Outcome(0, [f"it could not be tried: {type(error).__name__}: {error}"], {})


def entry(promise: Promise, scale: Scale, outcome: Outcome, seconds: float) -> dict[str, object]:
    """Returns what the file of the results says of a promise."""
    return {
        "environment": environment(),
        "number": promise.number,
        "bar": promise.bar,
        "scale": round(scale.factor, 4),
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
        failures = f"[red]{len(outcome.failures)}[/red]" if outcome.failures else "0"
        shown = escape(report.told(outcome.figures))
        table.add_row(str(promise.number), name, f"{outcome.cases:,}", failures, escape(promise.bar), shown)
    return table


if __name__ == "__main__":
    # What a broken disk makes the product log is expected.
    logging.getLogger("twinsight").setLevel(logging.CRITICAL)
    sys.exit(main(sys.argv[1:]))
