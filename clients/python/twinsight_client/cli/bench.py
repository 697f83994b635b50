"""`twinsight bench`: throughput and latency of a running server."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

import click

from twinsight_client.bench.calls import (
    Workload,
    compare_calls,
    embed_calls,
    picture_queries,
    search_calls,
    vector_queries,
)
from twinsight_client.bench.loop import Plan, run_load
from twinsight_client.bench.pictures import HEIGHT_PX, WIDTH_PX, generated_jpegs
from twinsight_client.bench.report import Subject, measured, summarize
from twinsight_client.cli import exits
from twinsight_client.cli.batches import sort_out
from twinsight_client.cli.bench_output import Meter, write_report, write_report_file
from twinsight_client.cli.help import examples
from twinsight_client.cli.numbers import FiniteRange
from twinsight_client.cli.output import check_writable, write_error, write_json
from twinsight_client.cli.pictures import find_pictures
from twinsight_client.cli.settings import Settings, shared_options
from twinsight_client.cli.targets import checked_target
from twinsight_client.client import Client
from twinsight_client.deadlines import MANAGE_S
from twinsight_client.errors import InvalidArgument, Unavailable
from twinsight_client.filters import filter_from_json
from twinsight_client.results import HealthStatus, Vector

CLOSED_CONCURRENCY = 1
OPEN_CONCURRENCY = 64
"""An open loop needs room for calls that are due while others are in flight."""
MOST_IN_FLIGHT = 500
"""Each call in flight has its own connection, and many systems let a process open 1024 files."""
PICTURES_BYTES = 256 * 1024 * 1024
"""Most bytes of pictures kept in memory, to be sent again and again."""
STDOUT = Path("-")


@click.group(
    short_help="Measure the throughput and latency of a server.",
    epilog=examples(
        "twinsight bench embed --concurrency 8",
        "twinsight bench embed --rate 50 --duration 60 --json report.json",
        "twinsight bench search --collection photos --top-k 20 --concurrency 16",
        "twinsight bench compare --images ~/Pictures --batch 4",
    ),
)
@shared_options()
def bench() -> None:
    """Send calls of one kind to a running server for some seconds, and report how long they took.

    In a closed loop (--concurrency N), each of N connections sends its next call when the last one is answered. This
    shows what the server can do, but sends less as the server slows down. In an open loop (--rate R), calls are due R
    times a second at times fixed in advance, whatever the server does, and their latency counts from when they were
    due, even if they had to wait to be sent. This shows what users see, without coordinated omission.

    Calls are never retried; those that the server refuses for load are counted separately from errors. The report also
    shows where the latency went: the server's own stages, and what is left for network and client. After the
    warm-up, Ctrl-C ends the run early and still prints a report. The exit code is 3 if calls or single items failed.
    """


@dataclass(frozen=True)
class Asked:
    """The options of all kinds of calls.

    Attributes:
        settings: the server and how to reach it.
        duration_s: how long to measure.
        warmup_s: how long to send calls before that.
        concurrency: most calls in flight; None: the default of the loop.
        rate: calls due per second; None: a closed loop.
        json_file: where to write the report; STDOUT: print it instead of tables; None: nowhere.
    """

    settings: Settings
    duration_s: float
    warmup_s: float
    concurrency: int | None
    rate: float | None
    json_file: Path | None

    @property
    def as_json(self) -> bool:
        """Whether JSON goes to standard output."""
        return self.settings.as_json or self.json_file == STDOUT

    def plan(self) -> Plan:
        """Returns the plan of the load."""
        usual = CLOSED_CONCURRENCY if self.rate is None else OPEN_CONCURRENCY
        return Plan(
            target=checked_target(self.settings.target),
            concurrency=self.concurrency or usual,
            duration_s=self.duration_s,
            warmup_s=self.warmup_s,
            rate=self.rate,
            tls=self.settings.channel_tls(),
            bearer=self.settings.bearer(),
        )

    def client(self) -> Client:
        """Returns a client of the server; first checks that the report can be written when the run ends.

        Raises:
            OSError: the report can't be written.
            click.UsageError: there is no folder for it, or TLS options contradict each other.
        """
        file = self.json_file
        if file is not None and file != STDOUT:
            if not file.absolute().parent.is_dir():
                raise click.BadParameter(f"{file.parent} is not a folder.", param_hint="--json")
            check_writable(file)
        return self.settings.client()


def _load_options(command: click.Command) -> click.Command:
    """Adds the options of all kinds of calls."""
    option = partial(click.option, show_default=True)
    options = (
        option(
            "--duration",
            "duration_s",
            type=FiniteRange(min=0, min_open=True),
            default=10.0,
            metavar="SECONDS",
            help="How long to measure.",
        ),
        option(
            "--warmup",
            "warmup_s",
            type=FiniteRange(min=0),
            default=2.0,
            metavar="SECONDS",
            help="How long to send calls before that.",
        ),
        click.option(
            "--concurrency",
            type=click.IntRange(1, MOST_IN_FLIGHT),
            metavar="N",
            help="Calls in flight, each on its own connection; with --rate, the maximum.  "
            f"[default: {CLOSED_CONCURRENCY}; with --rate: {OPEN_CONCURRENCY}]",
        ),
        click.option(
            "--rate",
            type=FiniteRange(min=0, min_open=True),
            metavar="CALLS_PER_S",
            help="Open loop: calls are due this often, and latency counts from when they are due.",
        ),
        option("--batch", type=click.IntRange(1), default=1, metavar="N", help="Pictures, pairs or queries per call."),
        click.option(
            "--images",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            metavar="DIR",
            help=f"Send the pictures under DIR.  [default: generated JPEGs of {WIDTH_PX}x{HEIGHT_PX}]",
        ),
    )
    for one in options:
        command = one(command)
    own = list(command.params)
    shared = shared_options()(command).params[len(own) :]
    # Here `--json` also takes a file, so it replaces the shared flag.
    command.params = [*own, *reversed([one for one in shared if one.name != "as_json"])]
    json_option = click.option(
        "--json",
        "json_file",
        type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
        is_flag=False,
        flag_value=str(STDOUT),
        metavar="[FILE]",
        help="Write the report as JSON to FILE too; without FILE, print it instead of tables.",
    )
    return json_option(command)


_MODEL = click.option(
    "--model",
    default="",
    metavar="NAME",
    help="Model to use.  [default: the server's default, or its only model for this]",
)


@_load_options
@bench.command(
    short_help="Embed pictures.",
    epilog=examples(
        "twinsight bench embed --concurrency 8",
        "twinsight bench embed --rate 50 --images ~/Pictures --json report.json",
    ),
)
@_MODEL
@click.pass_obj
def embed(
    settings: Settings,
    *,
    model: str,
    images: Path | None,
    batch: int,
    duration_s: float,
    warmup_s: float,
    concurrency: int | None,
    rate: float | None,
    json_file: Path | None,
) -> None:
    """Embed pictures, --batch in each call."""
    asked = Asked(settings, duration_s, warmup_s, concurrency, rate, json_file)
    _measure_pictures(embed_calls, asked, images, batch=batch, model=model)


@_load_options
@bench.command(
    short_help="Compare pairs of pictures.",
    epilog=examples("twinsight bench compare --concurrency 4", "twinsight bench compare --images ~/Pictures --batch 4"),
)
@_MODEL
@click.pass_obj
def compare(
    settings: Settings,
    *,
    model: str,
    images: Path | None,
    batch: int,
    duration_s: float,
    warmup_s: float,
    concurrency: int | None,
    rate: float | None,
    json_file: Path | None,
) -> None:
    """Compare pairs of pictures, --batch in each call: each picture with the next."""
    asked = Asked(settings, duration_s, warmup_s, concurrency, rate, json_file)
    _measure_pictures(compare_calls, asked, images, batch=batch, model=model)


@_load_options
@bench.command(
    short_help="Search a collection.",
    epilog=examples(
        "twinsight bench search --collection photos --concurrency 16",
        "twinsight bench search --by image --images ~/Pictures --rate 20",
        'twinsight bench search --filter \'{"year": {"gte": 2000}}\' --rate 200',
    ),
)
@click.option("--collection", "-c", metavar="NAME", default="photos", show_default=True, help="Collection to search.")
@click.option(
    "--top-k", "-k", type=click.IntRange(1, 2**31 - 1), default=10, show_default=True, help="Maximum matches per query."
)
@click.option("--filter", "condition", metavar="JSON", help="Only items whose metadata match this filter.")
@click.option(
    "--by",
    type=click.Choice(["vector", "image"]),
    default="vector",
    show_default=True,
    help="Search by random vectors of length 1 or by pictures.",
)
@click.pass_obj
def search(
    settings: Settings,
    *,
    collection: str,
    top_k: int,
    condition: str | None,
    by: str,
    images: Path | None,
    batch: int,
    duration_s: float,
    warmup_s: float,
    concurrency: int | None,
    rate: float | None,
    json_file: Path | None,
) -> None:
    """Search a collection, --batch queries in each call, by random vectors or by pictures.

    Random vectors are unlike those in a collection; --by image with your own pictures is closer to real use.
    """
    if images is not None and by != "image":
        raise click.UsageError("--images requires --by image.")
    try:
        where = filter_from_json(condition) if condition is not None else None
    except InvalidArgument as error:
        raise click.BadParameter(error.message, param_hint="--filter") from error
    asked = Asked(settings, duration_s, warmup_s, concurrency, rate, json_file)
    with asked.client() as client:
        _check_serving(client, settings)
        found = client.get_collection(collection, timeout_s=MANAGE_S)
    queries: Sequence[Sequence[bytes | Vector]]
    if by == "image":
        pictures, what = _pictures(images)
        queries = picture_queries(pictures, batch=batch)
    else:
        queries = vector_queries(found.dimension, batch=batch)
        what = f"random vectors of {found.dimension} components"
    workload = search_calls(collection, queries, what=what, top_k=top_k, where=where, timeout_s=settings.timeout_s)
    subject = Subject(found.model, found.model_digest, found.id, found.item_count)
    _measure(workload, asked, subject)


def _check_serving(client: Client, settings: Settings) -> None:
    """Checks that the server takes load.

    Raises:
        Unavailable: the server reports that it is not serving.
        TwinsightClientError: it can't be reached.
    """
    status = client.health(timeout_s=MANAGE_S)  # --timeout is for the calls that are measured
    if status is not HealthStatus.SERVING:
        raise Unavailable(
            f"The server at {settings.target} is `{status}`. Wait for it with: twinsight health --wait 60",
            reason="NOT_SERVING",
        )


def _pictures(folder: Path | None) -> tuple[list[bytes], str]:
    """Returns the picture files to send, and a description of them."""
    if folder is None:
        made = generated_jpegs()
        return made, f"{len(made)} generated JPEGs of {WIDTH_PX}x{HEIGHT_PX}, {_size(made)} each"
    files = [one.path for one in find_pictures(folder).pictures]
    sendable, refused = sort_out(files)
    for place, error in sorted(refused.items()):
        write_error(f"skipped {files[place]}: {error.message} [{error.reason}]")
    # If not all are sent: the same sample each time, from the whole folder.
    random.Random(0).shuffle(sendable)  # noqa: S311  # no secret
    found: list[bytes] = []
    size = 0
    for one in sendable:
        if found and size + one.size > PICTURES_BYTES:
            break
        found.append(one.file.read_bytes())
        size += len(found[-1])
    if not found:
        raise InvalidArgument(f"No pictures under {folder}.", reason="FOLDER_EMPTY")
    of = "" if len(found) == len(files) else f" of {len(files)}"
    return found, f"{len(found)}{of} pictures under {folder}, {_size(found)} each"


def _size(pictures: list[bytes]) -> str:
    return f"{sum(len(one) for one in pictures) / len(pictures) / 1000:.0f} KB"


class _PictureCalls(Protocol):
    """Builds calls that send pictures to a model."""

    def __call__(
        self, pictures: Sequence[bytes], *, what: str, batch: int, model: str, timeout_s: float | None
    ) -> Workload: ...


def _measure_pictures(make: _PictureCalls, asked: Asked, images: Path | None, *, batch: int, model: str) -> None:
    """Sends pictures to a model and reports the results; raises like `_measure` and `_check_serving`."""
    with asked.client() as client:
        _check_serving(client, asked.settings)
    pictures, what = _pictures(images)
    workload = make(pictures, what=what, batch=batch, model=model, timeout_s=asked.settings.timeout_s)
    _measure(workload, asked, Subject())


def _measure(workload: Workload, asked: Asked, subject: Subject) -> None:
    """Sends the load and reports the results.

    Raises:
        click.exceptions.Exit: calls or items failed.
        KeyboardInterrupt: the run was interrupted; if anything was measured, the report has been printed.
    """
    plan = asked.plan()
    started = datetime.now(UTC)
    with Meter(workload.name, shown=not asked.as_json) as meter:
        run = run_load(workload, plan, on_tick=meter.show)
    if run.interrupted and not len(measured(run)):
        raise KeyboardInterrupt
    report = summarize(run, workload, plan, subject=subject, started=started)
    # The file comes last: the results are not lost if the disk has filled up meanwhile.
    if asked.as_json:
        write_json(report)
    else:
        write_report(report)
    if asked.json_file is not None and asked.json_file != STDOUT:
        write_report_file(report, asked.json_file)
    if run.interrupted:
        raise KeyboardInterrupt
    if report.calls.failed or report.items.failed:
        raise click.exceptions.Exit(exits.PARTIAL)
