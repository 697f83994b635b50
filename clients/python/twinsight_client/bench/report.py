"""What a run comes to: counts, rates and exact percentiles. `Report` as JSON is what `--json` writes.

Percentiles are by nearest rank over all latencies of the measured time: each is a latency that some call had, none is
an average of others. Latencies and stages are those of answered calls; what became of the other calls is counted.
Rates count the answers that arrived within the measured time, whenever their calls were sent.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata

import numpy as np

from twinsight_client.bench.calls import Workload
from twinsight_client.bench.loop import Plan, Run
from twinsight_client.bench.outcomes import REFUSED, UNANSWERED, code_name, is_failure
from twinsight_client.bench.records import Column, Records

LATE_S = 1e-3
"""A call that begins later than this after it was due counts as late; timers of a free client take a tenth of it."""
BUSY = 0.8
"""Share of a core above which this client's own waiting shows in the latencies."""
STAGES = ("decode", "queue", "compute", "search")


@dataclass(frozen=True)
class Percentiles:
    """In milliseconds."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class Load:
    """What was asked for, and how long was measured.

    Attributes:
        loop: `closed`: the next call is sent when one is answered; `open`: at times fixed beforehand.
        concurrency: most calls in flight.
        rate: calls due a second; None: a closed loop.
        batch: items in a call.
        warmup_s: not measured.
        duration_s: measured; less than was asked for where the run was interrupted.
        timeout_s: deadline of each call.
    """

    loop: str
    concurrency: int
    rate: float | None
    batch: int
    warmup_s: float
    duration_s: float
    timeout_s: float


@dataclass(frozen=True)
class CallCounts:
    """Calls that were due in the measured time; of a closed loop, those sent in it.

    Attributes:
        due: all of them: the sum of the next five.
        answered: with an answer as a whole; items of it may have failed.
        refused: turned away for load (RESOURCE_EXHAUSTED).
        failed: with any other status.
        unanswered: under way when the run was interrupted.
        not_started: of an open loop, still waiting for their turn when the time was over.
        late: of those started, how many were started more than 1 ms after they were due.
    """

    due: int
    answered: int
    refused: int
    failed: int
    unanswered: int
    not_started: int
    late: int


@dataclass(frozen=True)
class ItemCounts:
    """What answered calls were about.

    Attributes:
        kind: pictures, queries or pairs.
        answered: with an answer of their own.
        failed: without one.
        errors: the failed ones by the name of their status code.
    """

    kind: str
    answered: int
    failed: int
    errors: dict[str, int]


@dataclass(frozen=True)
class Slowest:
    """The answered call with the longest latency; the server's log has it under its request id."""

    latency_ms: float
    request_id: str


@dataclass(frozen=True)
class Report:
    """Everything about a run.

    Attributes:
        target: HOST:PORT of the server.
        call: embed, search or compare.
        sent: what was sent, for a person.
        model: name of the model that answered, or that the collection is bound to; empty where none is.
        model_digest: its digest.
        collection: of a search, the collection's id; else None.
        collection_items: how many items it held.
        started: when the run began.
        client: versions that matter here.
        load: what was asked for.
        interrupted: whether the run ended early.
        calls: what became of them.
        errors: failed calls by the name of their status code.
        items: what became of pictures, queries or pairs.
        messages: what the server said first, by the name of the status code.
        calls_per_s: answered calls.
        items_per_s: answered items.
        latency_from: `due time` or `sending`: where latencies begin.
        latency_ms: until the answer is here; None where no call was answered.
        stages_ms: where that time went: `wait` (due but not sent yet; of an open loop), the server's own `decode`,
            `queue`, `compute` and `search`, `server_other` (the rest of its time) and `network_and_client`. A stage
            that did not take place is left out. Percentiles of parts do not add up to those of the whole.
        slowest: None where no call was answered.
        client_cpu: of one core, the share that the load tester itself used.
        notes: what to know before trusting the figures.
    """

    target: str
    call: str
    sent: str
    model: str
    model_digest: str
    collection: str | None
    collection_items: int | None
    started: datetime
    client: dict[str, str]
    load: Load
    interrupted: bool
    calls: CallCounts
    errors: dict[str, int]
    items: ItemCounts
    messages: dict[str, str]
    calls_per_s: float
    items_per_s: float
    latency_from: str
    latency_ms: Percentiles | None
    stages_ms: dict[str, Percentiles]
    slowest: Slowest | None
    client_cpu: float
    notes: list[str]


@dataclass(frozen=True)
class Subject:
    """What the calls ran on; fields as in `Report`."""

    model: str = ""
    model_digest: str = ""
    collection: str | None = None
    collection_items: int | None = None


def percentiles(values: Column) -> Percentiles | None:
    """Returns the percentiles of `values`, in their unit, NaN left out; None where nothing remains."""
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    ranks = np.percentile(values, (50, 90, 95, 99, 100), method="inverted_cdf")
    return Percentiles(*(round(float(one), 3) for one in ranks))


def measured(run: Run) -> Records:
    """Returns the calls that were due in the measured time."""
    due = run.records.column("due")
    return run.records[(due >= run.window.start) & (due < run.window.end)]


def summarize(run: Run, workload: Workload, plan: Plan, *, subject: Subject, started: datetime) -> Report:
    """Returns the report of a run.

    Args:
        run: what happened.
        workload: what was sent.
        plan: how.
        subject: what the calls ran on; a model that the answers name counts for more.
        started: when the run began.
    """
    window_s = max(run.window.end - run.window.start, 1e-9)
    calls = measured(run)
    answered = calls.answered()
    counts = _counts(run, calls)
    failed_items = int(answered.column("failed_items").sum())
    arrived = run.records.answered()
    ended = arrived.column("ended")
    arrived = arrived[(ended >= run.window.start) & (ended < run.window.end)]
    latencies = answered.latencies_ms()
    slowest = None
    if len(answered):
        place = int(np.argmax(latencies))
        number = int(answered.column("number")[place])
        slowest = Slowest(round(float(latencies[place]), 3), f"{run.name}-{number}")
    load = Load(
        loop="closed" if plan.rate is None else "open",
        concurrency=plan.concurrency,
        rate=plan.rate,
        batch=workload.batch,
        warmup_s=plan.warmup_s,
        duration_s=round(window_s, 3),
        timeout_s=workload.timeout_s,
    )
    errors = _errors(calls.column("outcome"))
    return Report(
        target=plan.target,
        call=workload.name,
        sent=workload.what,
        model=run.model.name or subject.model,
        model_digest=run.model.digest or subject.model_digest,
        collection=subject.collection,
        collection_items=subject.collection_items,
        started=started,
        client={
            "twinsight": metadata.version("twinsight"),
            "grpcio": metadata.version("grpcio"),
            "python": platform.python_version(),
        },
        load=load,
        interrupted=run.interrupted,
        calls=counts,
        errors=errors,
        items=ItemCounts(
            kind=workload.items,
            answered=len(answered) * workload.batch - failed_items,
            failed=failed_items,
            errors=dict(sorted(run.item_errors.items())),
        ),
        messages=run.messages,
        calls_per_s=round(len(arrived) / window_s, 3),
        items_per_s=round((len(arrived) * workload.batch - arrived.column("failed_items").sum()) / window_s, 3),
        latency_from="sending" if plan.rate is None else "due time",
        latency_ms=percentiles(latencies),
        stages_ms=stages_ms(answered, is_open=plan.rate is not None),
        slowest=slowest,
        client_cpu=round(run.cpu_share, 3),
        notes=list(_notes(run, load, counts, errors, arrived=len(arrived))),
    )


def stages_ms(answered: Records, *, is_open: bool) -> dict[str, Percentiles]:
    """Returns where the time of answered calls went; see `Report.stages_ms`."""
    on_the_way = (answered.column("ended") - answered.column("begun")) * 1e3
    stages = {one: answered.column(f"{one}_ms") for one in STAGES}
    total = answered.column("total_ms")
    columns: dict[str, Column] = {}
    if is_open:
        columns["wait"] = (answered.column("begun") - answered.column("due")) * 1e3
    columns |= stages
    # Of several pictures the longest of each stage counts, so that stages together may be more than the whole.
    known = np.nansum(np.array(list(stages.values())), axis=0)
    columns["server_other"] = np.maximum(total - known, 0)
    columns["network_and_client"] = np.maximum(on_the_way - total, 0)
    found = {name: percentiles(column) for name, column in columns.items()}
    return {name: one for name, one in found.items() if one is not None}


def _counts(run: Run, calls: Records) -> CallCounts:
    outcome = calls.column("outcome")
    not_started = 0
    if run.due_count is not None:
        # Where the server falls behind, calls that were due in the warm-up are among those that nobody took.
        not_started = max(0, run.due_count - run.warmup_due_count - len(calls))
    refused = int((outcome == REFUSED).sum())
    unanswered = int((outcome == UNANSWERED).sum())
    answered = len(calls.answered())
    return CallCounts(
        due=len(calls) + not_started,
        answered=answered,
        refused=refused,
        failed=len(calls) - answered - refused - unanswered,
        unanswered=unanswered,
        not_started=not_started,
        late=int((calls.column("begun") - calls.column("due") > LATE_S).sum()),
    )


def _errors(outcomes: Column) -> dict[str, int]:
    counted = Counter(code_name(int(one)) for one in outcomes if is_failure(int(one)))
    return dict(sorted(counted.items()))


def _notes(run: Run, load: Load, counts: CallCounts, errors: dict[str, int], *, arrived: int) -> Iterable[str]:
    if run.interrupted:
        yield f"Interrupted after {load.duration_s:.1f} s of measuring."
    if run.cpu_share > BUSY:
        yield (
            f"This client used {run.cpu_share:.0%} of one core: latencies include its own waiting. Share the load "
            "among several `twinsight bench`, on other machines if you can."
        )
    if arrived and not counts.answered:
        yield (
            "Of the calls that were due in the measured time none was answered: the rates are those of calls due in "
            "the warm-up, answered late, and there are no latencies."
        )
    if counts.not_started:
        yield (
            f"Calls that were due and never started: {counts.not_started}. The server does not make {load.rate:g} "
            f"calls/s of {load.concurrency} in flight (see --concurrency). The waits of these calls are in no "
            "percentile: true latencies at this rate are longer, and grow with the duration."
        )
    elif counts.late:
        yield (
            f"Calls started over 1 ms after they were due: {counts.late}. Either {load.concurrency} were in flight "
            "(see --concurrency) or this client was busy; the wait is part of their latency."
        )
    if late := errors.get("DEADLINE_EXCEEDED"):
        yield f"Calls without an answer within {load.timeout_s:g} s: {late}. They are in no percentile."
    if counts.unanswered:
        yield f"Calls under way when the run was interrupted: {counts.unanswered}. They are in no percentile."
