"""The report of a run: counts, rates and exact percentiles. `--json` writes the `Report` as JSON.

Percentiles are by nearest rank over all latencies of the measured time: each is the latency of a call, never an average
of several. Latencies and stages are those of answered calls; the outcomes of all others are counted. Rates count the
responses that arrived within the measured time, whenever their calls were sent.
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
"""A call that starts more than this after it was due counts as late; the timers of an idle client need a tenth."""
BUSY = 0.8
"""Share of a core above which this client's own delays show in the latencies."""
STAGES = ("decode", "queue", "compute", "search")


@dataclass(frozen=True)
class Percentiles:
    """Percentiles in milliseconds."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class Load:
    """The requested load, and the measured time.

    Attributes:
        loop: `closed`: the next call is sent when one is answered; `open`: at times fixed in advance.
        concurrency: most calls in flight.
        rate: calls due per second; None: a closed loop.
        batch: items per call.
        warmup_s: time before the measured time.
        duration_s: measured time; less than requested if the run was interrupted.
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
    """Calls that were due in the measured time; in a closed loop, those sent in it.

    Attributes:
        due: all of them, the sum of the next five.
        answered: calls that succeeded as a whole; items of them may have failed.
        refused: calls refused for load (RESOURCE_EXHAUSTED).
        failed: calls that failed with any other status.
        unanswered: calls in flight when the run was interrupted.
        not_started: calls of an open loop that were still waiting to be sent when the time was over.
        late: of those started, calls started more than 1 ms after they were due.
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
    """Items of answered calls.

    Attributes:
        kind: pictures, queries or pairs.
        answered: items that succeeded.
        failed: items that failed.
        errors: number of failed items, by name of the status code.
    """

    kind: str
    answered: int
    failed: int
    errors: dict[str, int]


@dataclass(frozen=True)
class Slowest:
    """The answered call with the highest latency; the server's log has it under its request id."""

    latency_ms: float
    request_id: str


@dataclass(frozen=True)
class Report:
    """The complete report of a run.

    Attributes:
        target: HOST:PORT of the server.
        call: embed, search or compare.
        sent: human-readable description of what was sent.
        model: name of the model that answered, or that the collection is bound to; empty if none.
        model_digest: digest of the model.
        collection: id of the searched collection; None for other calls.
        collection_items: items in the collection.
        started: when the run began.
        client: versions on the client's side.
        load: the requested load.
        interrupted: whether the run ended early.
        calls: outcomes of the calls.
        errors: number of failed calls, by name of the status code.
        items: outcomes of the pictures, queries or pairs.
        refusals: number of refused calls, by the server's reason: its limits, or those of the caller's key.
        messages: the server's first error message, by its reason, or by name of the status code if it gives none.
        calls_per_s: answered calls per second.
        items_per_s: answered items per second.
        latency_from: when latencies start: `due time` or `sending`.
        latency_ms: latencies until the response arrived; None if no call was answered.
        stages_ms: breakdown of the latencies: `wait` (due but not yet sent; open loop only), the server's own `decode`,
            `queue`, `compute` and `search`, `server_other` (the rest of its time) and `network_and_client`. A stage
            that did not take place is left out. Percentiles of parts do not add up to those of the whole.
        slowest: the slowest call; None if no call was answered.
        client_cpu: share of one core that the load generator itself used.
        notes: caveats about the figures.
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
    refusals: dict[str, int]
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
    """The model and collection of the calls; fields as in `Report`."""

    model: str = ""
    model_digest: str = ""
    collection: str | None = None
    collection_items: int | None = None


def percentiles(values: Column) -> Percentiles | None:
    """Returns the percentiles of `values`, in their unit, without NaN; None if nothing remains."""
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
        run: the data of the run.
        workload: what was sent.
        plan: how it was sent.
        subject: the model and collection; a model named by the responses takes precedence.
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
        refusals=dict(sorted(run.refusals.items())),
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
    # For several pictures, the longest of each stage counts, so the stages may add up to more than the total.
    known = np.nansum(np.array(list(stages.values())), axis=0)
    columns["server_other"] = np.maximum(total - known, 0)
    columns["network_and_client"] = np.maximum(on_the_way - total, 0)
    found = {name: percentiles(column) for name, column in columns.items()}
    return {name: one for name, one in found.items() if one is not None}


def _counts(run: Run, calls: Records) -> CallCounts:
    outcome = calls.column("outcome")
    not_started = 0
    if run.due_count is not None:
        # If the server falls behind, calls due in the warm-up may be among those that were never started.
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
            f"This client used {run.cpu_share:.0%} of one core: latencies include its own delays. Split the load "
            "over several `twinsight bench`, on other machines if possible."
        )
    if arrived and not counts.answered:
        yield (
            "No call that was due in the measured time was answered: the rates are those of calls due in the warm-up, "
            "answered late, and there are no latencies."
        )
    if counts.not_started:
        yield (
            f"Calls due but not started: {counts.not_started}. The server did not sustain {load.rate:g} calls/s with "
            f"{load.concurrency} in flight (see --concurrency). No percentile includes the waits of these calls: true "
            "latencies at this rate are longer, and grow with the duration."
        )
    elif counts.late:
        yield (
            f"Calls started more than 1 ms late: {counts.late}. Either {load.concurrency} were in flight "
            "(see --concurrency) or this client was busy; the wait is part of their latency."
        )
    if late := errors.get("DEADLINE_EXCEEDED"):
        yield f"Calls without a response within {load.timeout_s:g} s: {late}. No percentile includes them."
    if counts.unanswered:
        yield f"Calls in flight when the run was interrupted: {counts.unanswered}. No percentile includes them."
