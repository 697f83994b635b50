"""`twinsight index`: writes a folder of pictures to a collection."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection
from pathlib import Path

import click

from twinsight_client.cli import exits
from twinsight_client.cli.help import examples
from twinsight_client.cli.indexing import TAKEN, Indexer, IndexReport, ensure_collection
from twinsight_client.cli.output import write_error, write_json
from twinsight_client.cli.pictures import find_pictures, passed_over_said
from twinsight_client.cli.progress import progress_bar
from twinsight_client.cli.settings import PATIENT, Settings, shared_options
from twinsight_client.cli.tables import write_fields
from twinsight_client.client import Client
from twinsight_client.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from twinsight_client.filters import field

_LASTING = (DataLoss, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated)
"""Errors that another run would meet, too."""


@click.command(
    short_help="Index a folder of pictures into a collection.",
    epilog=examples(
        "twinsight index ~/Pictures",
        "twinsight index ~/Pictures --collection family --prune",
        "twinsight index /mnt/shop --collection products --prefix shop/",
        "twinsight index /srv/photos --moved-from ~/Pictures --prune",
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--collection", "-c", metavar="NAME", default="photos", show_default=True, help="Collection; created if missing."
)
@click.option(
    "--model",
    default="",
    metavar="NAME",
    help="Model to bind a new collection to.  [default: the server's default, or its only model for this]",
)
@click.option("--prefix", default="", help="Put this before each id, to index several folders into one collection.")
@click.option(
    "--moved-from",
    metavar="OLD_DIR",
    multiple=True,
    help="Treat the items of OLD_DIR, which need not exist any more, as this folder's.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Replace items of other folders' pictures that have the same id, with all their fields.",
)
@click.option("--prune", is_flag=True, help="Delete items of this folder whose file is gone.")
@click.option(
    "--purge",
    is_flag=True,
    help="With --prune: erase these, and all that was deleted or replaced, from the server's disk; takes a while.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Batches sent concurrently.")
@click.option(
    "--batch-size", type=click.IntRange(1, 256), default=16, show_default=True, help="Maximum pictures per batch."
)
@shared_options()
@click.pass_obj
def index(
    settings: Settings,
    *,
    folder: Path,
    collection: str,
    model: str,
    prefix: str,
    moved_from: tuple[str, ...],
    replace: bool,
    prune: bool,
    purge: bool,
    jobs: int,
    batch_size: int,
) -> None:
    """Index the JPEG, PNG and WebP files under DIR into a collection.

    Files are chosen by their suffix. Other image formats (HEIC, GIF, TIFF, AVIF, BMP, raw files) and links to folders
    are ignored and counted. Hidden files and folders are ignored.

    An item's id is its file's path under DIR. Filters can use its metadata: `folder` (the names of the folders on the
    path), `file`, `size`, `mtime_ns`, and `root`, the absolute path of DIR, by which `search --sheet` finds the
    pictures. Fields that others wrote to an item are kept, even if its file changes.

    A picture whose id belongs to another folder's picture is skipped unless --replace is given; use a --prefix for each
    folder. A file with the same size and modification time is the same picture, so a folder may be moved. If some of
    its files also changed or are gone, name the old folder with --moved-from: changed files then keep their fields, and
    --prune deletes the items whose file is gone from both. Otherwise no item of another folder is deleted: a folder
    that can't be seen may be unmounted or on another machine.

    Run it again to continue after an interruption or to pick up changes: files that the server already has as they are
    now are not sent again. Files and folders that can't be read are listed with the reason, and the exit code is 3;
    --prune deletes none of their items.
    """
    if purge and not prune:
        raise click.UsageError("--purge requires --prune.")
    if not all(moved_from):
        raise click.UsageError("--moved-from must name a folder.")
    old_roots = [root for one in moved_from for root in _as_stored(one)]
    listing = find_pictures(folder)
    with settings.client(retry=PATIENT) as client:
        client.health()  # never retried: an unreachable server is reported at once
        ensure_collection(client, collection, model=model)
        for one in moved_from:
            _warn_if_no_items(client, collection, one)
        with progress_bar(shown=not settings.as_json and sys.stderr.isatty()) as progress:
            task = progress.add_task(collection, total=len(listing.pictures))
            indexer = Indexer(
                client,
                collection,
                prefix=prefix,
                moved_from=old_roots,
                replace=replace,
                jobs=jobs,
                batch_size=batch_size,
                advance=lambda count: progress.advance(task, count),
                interrupted=_print_waiting,
            )
            try:
                if prune:
                    indexer.run_and_prune(listing, purge=purge)
                else:
                    indexer.run(listing)
            finally:
                progress.stop()
                lasting = isinstance(sys.exception(), _LASTING)
                _print_report(indexer.report, told=old_roots, lasting=lasting, as_json=settings.as_json)
    if indexer.report.skipped:
        raise click.exceptions.Exit(exits.PARTIAL)


def _as_stored(folder: str) -> list[str]:
    """Returns the names that items may have for a folder: links in its path may have changed since."""
    return sorted({folder, str(Path(folder).absolute()), os.path.realpath(folder)})


def _warn_if_no_items(client: Client, collection: str, folder: str) -> None:
    where = field("root").is_in(_as_stored(folder))
    if not next(client.list_items(collection, where=where, page_size=1)):
        write_error(f"Collection `{collection}` has no items of {folder}.")


def _print_waiting(count: int) -> None:
    if count:
        write_error(f"Waiting for batches in flight ({count}); press Ctrl-C again to abandon them.")


def _print_report(report: IndexReport, *, told: Collection[str] = (), lasting: bool = False, as_json: bool) -> None:
    """Prints what was done, even if the run was interrupted, or failed by an error that may be a `lasting` one."""
    if as_json:
        write_json(report)
        return
    for one in sorted(report.skipped, key=lambda one: one.id):
        write_error(f"skipped {one.id}: {one.message} [{one.reason}]")
    if any(one.reason == TAKEN for one in report.skipped):
        write_error(
            "These ids belong to pictures of other folders: --prefix keeps folders apart, --moved-from takes over the "
            "items of a moved folder, --replace replaces them."
        )
    if report.replaced:
        write_error(f"{report.replaced} items of other folders' pictures were replaced.")
    if report.moved:
        write_error(f"{report.moved} items moved to this folder, with their fields.")
    for old in sorted(set(report.moved_from).difference(told)):
        write_error(
            f"If {old} was moved here, --moved-from {shlex.quote(old)} --prune deletes its items whose file is gone."
        )
    if passed_over := passed_over_said(report.passed_over, report.linked_folders):
        write_error(f"ignored: {passed_over}")
    handled = report.written + len(report.skipped)
    rate = f", {handled / report.seconds:.0f}/s" if handled and report.seconds else ""
    write_fields(
        {
            "collection": report.collection,
            "found": report.found,
            "unchanged": report.unchanged,
            "written": report.written,
            "skipped": len(report.skipped),
            "pruned": report.pruned,
            "time": f"{report.seconds:.1f} s{rate}",
        }
    )
    if not report.finished:
        write_error("Not finished." if lasting else "Not finished: run the same command again to continue.")
