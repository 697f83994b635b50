"""`twinsight index`: a folder of pictures into a collection."""

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
from twinsight_client.filters import field


@click.command(
    short_help="Write a folder of pictures to a collection.",
    epilog=examples(
        "twinsight index ~/Pictures",
        "twinsight index ~/Pictures --collection family --prune",
        "twinsight index /mnt/shop --collection products --prefix shop/",
        "twinsight index /srv/photos --moved-from ~/Pictures --prune",
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--collection", "-c", metavar="NAME", default="photos", show_default=True, help="Collection; made if it is missing."
)
@click.option(
    "--model",
    default="",
    metavar="NAME",
    help="Model to bind a new collection to.  [default: the server's, or its only one for this]",
)
@click.option("--prefix", default="", help="Put this before each id, to keep several folders in one collection.")
@click.option(
    "--moved-from",
    metavar="OLD_DIR",
    multiple=True,
    help="Take the items of OLD_DIR, which need not be there any more, for this folder's.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Write also where the id is that of another folder's picture, which goes with all its fields.",
)
@click.option("--prune", is_flag=True, help="Delete items of this folder whose file is gone.")
@click.option(
    "--purge",
    is_flag=True,
    help="With --prune: erase from the server's disk these and all that was deleted or replaced, which takes a while.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Batches sent at the same time.")
@click.option(
    "--batch-size", type=click.IntRange(1, 256), default=16, show_default=True, help="Most pictures in a batch."
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
    """Write the JPEG, PNG and WebP files under DIR to a collection.

    Files are taken by their suffix. Other pictures (HEIC, GIF, TIFF, AVIF, BMP, raw files) and links to folders are
    passed over, and counted. Hidden files and folders are left out.

    An item's id is its file's path under DIR. Its metadata can be searched by: `folder` (the names of the folders on
    the way), `file`, `size`, `mtime_ns`, and `root`, the absolute path of DIR, by which `search --sheet` finds the
    pictures. Fields that others wrote to the same items stay, also where a file changed.

    A picture whose id is already that of another folder's picture is skipped, unless --replace is given; give each
    folder a --prefix. A file of the same size and time of change is the same picture: a folder may be moved.
    Where files of it changed as well, or are gone, name the old one with --moved-from: what changed keeps its fields
    then, and --prune deletes what is gone from both. Without that no item of another folder is deleted: one that can't
    be seen may be unmounted, or on another machine.

    Run it again to go on after an interruption or to take up changes: files that the server has as they are now are
    skipped. Files and folders that can't be read are listed with the reason, and the exit code is 3; --prune deletes
    nothing of theirs.
    """
    if purge and not prune:
        raise click.UsageError("--purge goes with --prune.")
    if not all(moved_from):
        raise click.UsageError("--moved-from takes a folder.")
    old_roots = [root for one in moved_from for root in _as_stored(one)]
    listing = find_pictures(folder)
    with settings.client(retry=PATIENT) as client:
        client.health()  # is never tried again: a server that is not there is told of at once
        ensure_collection(client, collection, model=model)
        for one in moved_from:
            _tell_of_no_items(client, collection, one)
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
                interrupted=_tell_of_waiting,
            )
            try:
                indexer.run(listing)
                if prune:
                    indexer.prune(listing, purge=purge)
            finally:
                progress.stop()
                _tell(indexer.report, told=old_roots, as_json=settings.as_json)
    if indexer.report.skipped:
        raise click.exceptions.Exit(exits.PARTIAL)


def _as_stored(folder: str) -> list[str]:
    """Returns what items may call a folder: links on the way to it may have been others when they were written."""
    return sorted({folder, str(Path(folder).absolute()), os.path.realpath(folder)})


def _tell_of_no_items(client: Client, collection: str, folder: str) -> None:
    where = field("root").is_in(_as_stored(folder))
    if not next(client.list_items(collection, where=where, page_size=1)):
        write_error(f"No items in `{collection}` are of {folder}.")


def _tell_of_waiting(count: int) -> None:
    if count:
        write_error(f"Waiting for the batches in work ({count}); another Ctrl-C gives them up.")


def _tell(report: IndexReport, *, told: Collection[str] = (), as_json: bool) -> None:
    """Prints what was done, also where the run broke off."""
    if as_json:
        write_json(report)
        return
    for one in sorted(report.skipped, key=lambda one: one.id):
        write_error(f"skipped {one.id}: {one.message} [{one.reason}]")
    if any(one.reason == TAKEN for one in report.skipped):
        write_error(
            "Pictures of other folders have these ids: --prefix keeps folders apart, --moved-from takes the items of a "
            "folder that was moved for this one's, --replace replaces them."
        )
    if report.replaced:
        write_error(f"{report.replaced} items were of other folders' pictures and were replaced.")
    if report.moved:
        write_error(f"{report.moved} items were written from elsewhere and are this folder's now, with their fields.")
    for old in sorted(set(report.moved_from).difference(told)):
        write_error(
            f"If {old} was moved here, --moved-from {shlex.quote(old)} --prune deletes its items whose file is gone."
        )
    if passed_over := passed_over_said(report.passed_over, report.linked_folders):
        write_error(f"passed over: {passed_over}")
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
        write_error("Not finished: run the same command again to go on.")
