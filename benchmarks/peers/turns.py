"""Peers measured in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.orders import Do
from benchmarks.peers.peer import Plan, Stand

BUSY_S = 3.0


def measure(stands: Sequence[Stand], plan: Plan) -> None:
    """Fills the runs of those that have not failed; one that fails on the way is left out from then on."""
    for run in range(plan.runs):
        print(f"  run {run + 1} of {plan.runs}", flush=True)
        _round(stands, "times", plan, turns=plan.turns, first=run)
        _round(stands, "batches", plan, turns=plan.turns, first=run)
        _round(stands, "load", plan, turns=plan.load_turns, first=run)
        for stand in stands:
            if not stand.failed:
                stand.end_run(plan)


def _round(stands: Sequence[Stand], do: Do, plan: Plan, *, turns: int, first: int) -> None:
    those = [stand for stand in stands if do in stand.peer.measures]
    for turn in range(turns):
        start = (first + turn) % max(len(those), 1)
        for stand in those[start:] + those[:start]:
            if not stand.failed:
                with stand.failing():
                    stand.turn(do, plan)


def busy_share(seconds: float = BUSY_S) -> float:
    """Returns how much of all cores' time was spent working during the next seconds: what is there besides the run."""
    idle, total = _cpu_times()
    time.sleep(seconds)
    idle_after, total_after = _cpu_times()
    return round(1 - (idle_after - idle) / max(total_after - total, 1), 3)


def _cpu_times() -> tuple[int, int]:
    numbers = [int(one) for one in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return numbers[3] + numbers[4], sum(numbers)
