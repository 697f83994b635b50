"""Promise 7: adding, searching, deleting and growing at once: no crash, and every item's history is linearizable."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.torture.children import child
from benchmarks.torture.churned_collection import CLIENTS, churn
from benchmarks.torture.linearizability import Kind, Operation, first_impossible
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale

SECONDS = 600.0
_START_S, _END_S = 120.0, 600.0


def churned(seconds: float, seed: int) -> tuple[list[str], dict[int, list[Operation]]]:
    """Works on a collection in a child process; returns what failed there, and the history by register."""
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as root:
        folder, told_to = Path(root) / "churned", Path(root) / "histories"
        folder.mkdir()
        told_to.mkdir()
        with child(churn, str(folder), str(told_to), seconds, seed) as process:
            if process.line(_START_S) is None:
                return ["the process did not start"], {}
            told = process.line(seconds + _END_S)
            if told is None:
                process.kill()
                told = f"the process crashed or hung: {process.ended()}"
        histories: defaultdict[int, list[Operation]] = defaultdict(list)
        for line in (line for file in sorted(told_to.iterdir()) for line in file.read_text().splitlines()):
            match line.split():
                case [register, kind, version, called, answered]:
                    operation = Operation(int(called), int(answered), Kind(kind), int(version))
                    histories[int(register)].append(operation)
        return [] if told == "well" else [told], dict(histories)


def impossible(histories: dict[int, list[Operation]]) -> list[str]:
    """Returns what no order explains, of each register the first."""
    return [
        f"register {register}: {operation} fits no order"
        for register, history in sorted(histories.items())
        if (operation := first_impossible(history)) is not None
    ]


def run(scale: Scale) -> Outcome:
    """Works for ten minutes, and checks each register's history."""
    seconds = scale.seconds(SECONDS)
    failures, histories = churned(seconds, scale.seed)
    failures += impossible(histories)
    kinds = Counter(operation.kind for history in histories.values() for operation in history)
    figures: dict[str, Figure] = {"minutes": round(seconds / 60, 2), "clients": CLIENTS, "registers": len(histories)}
    figures |= {f"{kind}s": count for kind, count in kinds.items()}
    return Outcome(kinds.total(), failures, figures)


PROMISE = Promise(7, "churn", "0 crashes in 10 minutes, every history linearizable", 11.0, run)
