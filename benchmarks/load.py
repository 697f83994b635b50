"""Load on a server from a process of its own, which counts what it takes of the processors itself, beside the server.

`run` starts `python -m benchmarks.load`, which carries out one `Load` from standard input and prints what came of it.
What sends the calls is the engine of `twinsight bench`; what ingests is the client.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks.filling import wait_indexed
from benchmarks.processors import CpuWatch
from twinsight_client import Client, NewItem, operations
from twinsight_client.bench.calls import Reading, Workload, embed_calls
from twinsight_client.bench.loop import Plan, Run, Tick, run_load
from twinsight_client.bench.outcomes import REFUSED
from twinsight_client.bench.records import Column
from twinsight_client.bench.report import measured, percentiles
from twinsight_client.deadlines import SEARCH_S
from twinsight_client.results import Vector

if TYPE_CHECKING:
    from benchmarks.serving import Served  # brings JAX along, which the process of the load has no use for

ROOT = Path(__file__).parents[1]
TOP_K = 10
INGEST_BATCH = {"pictures": 64, "vectors": 1000}


@dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        do: what is called; `ingest_pictures` and `ingest_vectors` write items in one stream, until the last is in the
            graph where they are vectors.
        file: a JPEG, sent again and again; or, as .npy, the queries or items, [n, dimension] float32.
        collection: that is searched or filled.
        batch: pictures or queries in a call.
        concurrency: most calls in flight.
        rate: calls a second of an open loop; None: a closed loop.
        seconds: how long is measured.
        warm_up_s: how long calls are sent before.
        ef: width of a search's walk; 0: the server's own.
        count: pictures that are ingested.
    """

    do: Literal["embed", "search", "ingest_pictures", "ingest_vectors"]
    file: Path
    collection: str = ""
    batch: int = 1
    concurrency: int = 1
    rate: float | None = None
    seconds: float = 2.0
    warm_up_s: float = 0.5
    ef: int = 0
    count: int = 0


def run(load: Load, served: Served) -> dict[str, float]:
    """Returns the figures of a load on a server; rates are of pictures, queries or items, times in ms.

    Raises:
        subprocess.CalledProcessError: the process failed; what it printed is above.
    """
    sent = {**asdict(load), "file": str(load.file), "address": served.address, "pid": served.pid}
    command = [sys.executable, "-m", "benchmarks.load"]
    done = subprocess.run(command, input=json.dumps(sent), stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def figures_of(run: Run, batch: int) -> dict[str, float]:
    """Returns what a run comes to: latencies from when calls were due, those of refusals from when they were sent."""
    calls = measured(run)
    answered, refused = calls.answered(), calls[calls.column("outcome") == REFUSED]
    ended = run.records.answered().column("ended")
    arrived = int(((ended >= run.window.start) & (ended < run.window.end)).sum())
    due_s = run.window.end - run.window.start
    not_started = 0 if run.due_count is None else max(0, run.due_count - len(run.records))
    figures = {
        "per_s": round(arrived * batch / due_s, 2),
        "answered": len(answered),
        "refused": len(refused),
        "failed": len(calls) - len(answered) - len(refused),
        "not_started": not_started,
        "refused_for_good": run.refused_for_good,
    }
    figures |= _times("", answered.latencies_ms())
    return figures | _times("refused_", (refused.column("ended") - refused.column("begun")) * 1e3)


def _times(prefix: str, milliseconds: Column) -> dict[str, float]:
    found = percentiles(milliseconds)
    if found is None:
        return {}
    return {f"{prefix}{name}_ms": getattr(found, name) for name in ("p50", "p99", "max")}


def _send(load: Load, address: str, pid: int) -> dict[str, float]:
    watch = CpuWatch(pid)
    if not load.warm_up_s:
        watch.begin()  # a short load on a busy machine may be over before it is told of

    def on_tick(tick: Tick) -> None:
        if tick.elapsed_s >= load.warm_up_s:
            watch.begin()
        if tick.window.begin + tick.elapsed_s >= tick.window.end:
            watch.end()

    workload = _embeds(load) if load.do == "embed" else _searches(load)
    plan = Plan(address, load.concurrency, load.seconds, load.warm_up_s, load.rate)
    done = run_load(workload, plan, on_tick=on_tick)
    if done.item_errors:
        raise RuntimeError(f"Some of what was sent failed: {done.messages}")
    return figures_of(done, load.batch) | watch.cores()


def _embeds(load: Load) -> Workload:
    return embed_calls([load.file.read_bytes()], what=load.file.name, batch=load.batch)


def _searches(load: Load) -> Workload:
    queries: np.ndarray = np.load(load.file)
    starts = range(0, len(queries) - load.batch + 1, load.batch)
    sent = [_search(load, list(queries[start : start + load.batch])) for start in starts]
    # Answers are received and left unread, so that the load takes less of the processors.
    return Workload(
        name="search",
        items="queries",
        batch=load.batch,
        what=load.file.name,
        method=operations.COLLECTION_SERVICE + "Search",
        requests=tuple(sent),
        read=lambda _data: Reading(),
        timeout_s=SEARCH_S,
    )


def _search(load: Load, queries: list[Vector]) -> bytes:
    operation = operations.search(
        load.collection,
        queries,
        top_k=TOP_K,
        where=None,
        min_score=None,
        exact=False,
        ef=load.ef,
        include_metadata=False,
        include_vectors=False,
        exclude_self=False,
        vector_model_digest="",
    )
    return operation.request.SerializeToString()


def _ingest(load: Load, address: str, pid: int) -> dict[str, float]:
    vectors = load.do == "ingest_vectors"
    contents: np.ndarray | list[bytes] = np.load(load.file) if vectors else [load.file.read_bytes()] * load.count
    batch = INGEST_BATCH["vectors" if vectors else "pictures"]
    watch = CpuWatch(pid)
    with Client(address) as client:
        watch.begin()
        start = time.perf_counter()
        for done in client.ingest(load.collection, _items(contents), batch_size=batch):
            done.values()
        stored_s = seconds = time.perf_counter() - start
        if vectors:
            indexed = wait_indexed(client, load.collection)
            seconds = time.perf_counter() - start
            if indexed < len(contents):
                raise RuntimeError(f"Of {len(contents)} items {indexed} are in the graph.")
        watch.end()
    figures = {"per_s": round(len(contents) / seconds, 1), "stored_per_s": round(len(contents) / stored_s, 1)}
    return figures | watch.cores()


def _items(contents: np.ndarray | list[bytes]) -> Iterator[NewItem]:
    return (NewItem(f"i{n}", one) for n, one in zip(itertools.count(), contents, strict=False))


def main() -> None:
    """Carries out one load."""
    sent = json.loads(sys.stdin.read())
    address, pid = sent.pop("address"), sent.pop("pid")
    load = Load(**{**sent, "file": Path(sent["file"])})
    way = _ingest if load.do.startswith("ingest") else _send
    print(json.dumps(way(load, address, pid)))


if __name__ == "__main__":
    main()
