"""`python -m benchmarks.peers`: twinsight beside its alternatives, written to `benchmarks/results/peers.json`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks.environment import environment
from benchmarks.peers import embedding, searching
from benchmarks.peers.peer import Plan
from benchmarks.peers.processes import adopt_orphans, end_orphans

RESULT = Path(__file__).parents[1] / "results/peers.json"
QUICK_RESULT = Path(tempfile.gettempdir()) / "twinsight-peers-quick.json"
VECTORS, QUERIES, QUICK_QUERIES = 100_000, 1000, 200
QUICK = Plan(runs=2, turns=1, calls=10, load_turns=1, load_s=0.5, choose_s=0.3, batch_size=16)


def main() -> None:
    """Measures and writes; a peer that failed is told, and recorded as such."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--vectors", type=int, default=VECTORS, help="vectors to search [%(default)s]")
    parser.add_argument("--quick", action="store_true", help=f"see that all works; writes {QUICK_RESULT}")
    parser.add_argument("--only", choices=("embed", "search"), help="one half; the other stays as it was written")
    parser.add_argument("--out", type=Path, help=f"file of the results [{RESULT}]")
    chosen = parser.parse_args()
    plan, queries = (QUICK, QUICK_QUERIES) if chosen.quick else (Plan(), QUERIES)
    out: Path = chosen.out or (QUICK_RESULT if chosen.quick else RESULT)
    result: dict[str, object] = json.loads(out.read_text()) if chosen.only and out.exists() else {}
    result["quick"] = chosen.quick
    adopt_orphans()
    signal.signal(signal.SIGTERM, _stop)
    halves: dict[str, Callable[[Path], dict[str, object]]] = {
        "embed": lambda folder: embedding.run(plan, folder),
        "search": lambda folder: searching.run(plan, folder, count=chosen.vectors, queries=queries),
    }
    for name, run in halves.items():
        if chosen.only not in {None, name}:
            continue
        print(name, flush=True)
        try:
            with tempfile.TemporaryDirectory(prefix="twinsight-peers-") as folder:
                result[name] = {"environment": environment(), **run(Path(folder))}
        finally:
            end_orphans()
        out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{out} is written.")


def _stop(number: int, frame: FrameType | None) -> None:
    """Ends the run as an error would, so that every server is stopped."""
    del frame
    print(f"Stopped by signal {number}.", file=sys.stderr)
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
