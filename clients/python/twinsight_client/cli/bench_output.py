"""Output of `twinsight bench`: progress on standard error, tables or JSON at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from twinsight_client.bench.loop import Tick
from twinsight_client.bench.outcomes import REFUSED, is_failure
from twinsight_client.bench.report import Percentiles, Report, percentiles
from twinsight_client.cli.output import plain, write_error
from twinsight_client.cli.tables import write_fields, write_table

STAGE_NAMES = {
    "wait": "waiting to be sent",
    "decode": "decode",
    "queue": "queue",
    "compute": "compute",
    "search": "search",
    "server_other": "other server time",
    "network_and_client": "network and client",
}
"""Names for `Report.stages_ms`, in the order of a call's path."""
ONE = {"pictures": "picture", "pairs": "pair", "queries": "query"}


class Meter:
    """Shows the progress of a run, if standard error is a terminal.

    Args:
        name: name of the call.
        shown: False shows nothing even on a terminal.
    """

    def __init__(self, name: str, *, shown: bool) -> None:
        self._name = name
        self._refused = 0
        self._failed = 0
        # Drawn once per tick: a thread that draws ten times a second would use CPU time of the load.
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            disable=not (shown and sys.stderr.isatty()),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, tick: Tick) -> None:
        """Draws the progress of the run."""
        window = tick.window
        if self._task is None:
            self._task = self._progress.add_task(self._name, total=window.end - window.begin, said="")
        phase = self._name
        if window.begin + tick.elapsed_s < window.start:
            phase += " (warm-up)"
        self._progress.update(
            self._task, description=phase, completed=tick.elapsed_s, said=self.line(tick), refresh=True
        )

    def line(self, tick: Tick) -> str:
        """Returns the figures since the last tick, and the number of all refused and failed calls so far."""
        outcomes = tick.recent.column("outcome")
        self._refused += int((outcomes == REFUSED).sum())
        self._failed += sum(is_failure(int(one)) for one in outcomes)
        answered = tick.recent.answered()
        parts = [f"{len(answered) / max(tick.recent_s, 1e-9):.1f} calls/s"]
        if found := percentiles(answered.latencies_ms()):
            parts.append(f"p50 {found.p50:.1f} ms  p99 {found.p99:.1f} ms")
        if self._refused:
            parts.append(f"{self._refused} refused")
        if self._failed:
            parts.append(f"{self._failed} failed")
        if tick.elapsed_s >= tick.window.end - tick.window.begin and tick.in_flight:
            parts.append(f"waiting for {tick.in_flight} responses")
        return "  ".join(parts)


def write_report(report: Report) -> None:
    """Prints a report to standard output, and its error messages and notes to standard error."""
    write_fields(_fields(report))
    if report.latency_ms is not None:
        click.echo()
        rows = [_row(f"latency from {report.latency_from}", report.latency_ms)]
        rows += [_row(f"  {STAGE_NAMES[name]}", one) for name, one in report.stages_ms.items()]
        write_table(("ms", "p50 ", "p90 ", "p95 ", "p99 ", "max "), rows)
    for name, message in report.messages.items():
        write_error(f"{name}: {message}")
    for note in report.notes:
        write_error(f"Note: {note}")


def write_report_file(report: Report, file: Path) -> None:
    """Writes a report as JSON.

    Raises:
        OSError: the file can't be written.
    """
    file.write_text(json.dumps(plain(report), indent=2) + "\n", "utf-8")


def _fields(report: Report) -> dict[str, object]:
    load, calls, items = report.load, report.calls, report.items
    where = f"{report.collection}, {report.collection_items} items" if report.collection is not None else None
    loop = f"{load.loop}, {load.concurrency} in flight"
    if load.rate is not None:
        loop = f"{load.loop}, {load.rate:g} calls/s due, at most {load.concurrency} in flight"
    fields: dict[str, object | None] = {
        "server": report.target,
        "call": f"{report.call}, {load.batch} {ONE[items.kind] if load.batch == 1 else items.kind} per call",
        "collection": where,
        "model": report.model or None,
        "sent": report.sent,
        "loop": loop,
        "measured": f"{load.duration_s:.1f} s, after {load.warmup_s:g} s of warm-up",
        "calls": calls.due,
        "answered": calls.answered,
        "refused": _with_names(calls.refused, report.refusals),
        "failed": _with_names(calls.failed, report.errors),
        "unanswered": calls.unanswered or None,
        "not started": calls.not_started or None,
        "started late": calls.late or None,
        f"failed {items.kind}": _with_names(items.failed, items.errors) if items.failed else None,
        "calls/s": f"{report.calls_per_s:.1f}",
        f"{items.kind}/s": f"{report.items_per_s:.1f}",
        "client CPU": f"{report.client_cpu:.0%} of one core",
        "slowest call": report.slowest.request_id if report.slowest else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _with_names(count: int, by_name: Mapping[str, int]) -> str:
    """Returns a number with its breakdown by reason or status code."""
    return str(count) + (f" ({', '.join(f'{name} {one}' for name, one in by_name.items())})" if by_name else "")


def _row(name: str, found: Percentiles) -> tuple[str, ...]:
    return (name, *(f"{one:.2f}" for one in (found.p50, found.p90, found.p95, found.p99, found.max)))
