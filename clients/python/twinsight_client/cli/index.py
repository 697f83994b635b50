"""`twinsight index`: a folder of pictures into a collection."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from twinsight_client.cli import exits
from twinsight_client.cli.help import examples
from twinsight_client.cli.indexing import TAKEN, Indexer, IndexReport, ensure_collection
from twinsight_client.cli.output import write_error, write_fields, write_json
from twinsight_client.cli.pictures import find_pictures
from twinsight_client.cli.progress import progress_bar
from twinsight_client.cli.settings import PATIENT, Settings, shared_options


@click.command(
    short_help="Write a folder of pictures to a collection.",
    epilog=examples(
        "twinsight index ~/Pictures",
        "twinsight index ~/Pictures --collection family --prune",
        "twinsight index /mnt/shop --collection products --prefix shop/",
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
    replace: bool,
    prune: bool,
    purge: bool,
    jobs: int,
    batch_size: int,
) -> None:
    """Write the JPEG, PNG and WebP files under DIR to a collection.

    An item's id is its file's path under DIR. Its metadata can be searched by: `folder` (the names of the folders on
    the way), `file`, `size`, `mtime_ns`, and `root`, the absolute path of DIR, by which `search --sheet` finds the
    pictures. Fields that others wrote to the same items stay, also where a file changed.

    A picture whose id is already that of another folder's picture is skipped, unless --replace is given; give each
    folder a --prefix. A file of the same size and time of change is the same picture: a folder may be moved.

    Run it again to go on after an interruption or to take up changes: files that the server has as they are now are
    skipped. Files and folders that can't be read are listed with the reason, and the exit code is 3; --prune deletes
    nothing of theirs.
    """
    if purge and not prune:
        raise click.UsageError("--purge goes with --prune.")
    listing = find_pictures(folder)
    with settings.client(retry=PATIENT) as client:
        client.health()  # is never tried again: a server that is not there is told of at once
        ensure_collection(client, collection, model=model)
        with progress_bar(shown=not settings.as_json and sys.stderr.isatty()) as progress:
            task = progress.add_task(collection, total=len(listing.pictures))
            indexer = Indexer(
                client,
                collection,
                prefix=prefix,
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
                _tell(indexer.report, as_json=settings.as_json)
    if indexer.report.skipped:
        raise click.exceptions.Exit(exits.PARTIAL)


def _tell_of_waiting(count: int) -> None:
    if count:
        write_error(f"Waiting for the batches in work ({count}); another Ctrl-C gives them up.")


def _tell(report: IndexReport, *, as_json: bool) -> None:
    """Prints what was done, also where the run broke off."""
    if as_json:
        write_json(report)
        return
    for one in sorted(report.skipped, key=lambda one: one.id):
        write_error(f"skipped {one.id}: {one.message} [{one.reason}]")
    if any(one.reason == TAKEN for one in report.skipped):
        write_error("Pictures of other folders have these ids: --prefix keeps folders apart, --replace replaces them.")
    if report.replaced:
        write_error(f"{report.replaced} items were of other folders' pictures and were replaced.")
    if report.moved:
        write_error(f"{report.moved} items were written from elsewhere and are this folder's now, with their fields.")
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
