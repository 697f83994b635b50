"""`twinsight collections`: list, describe, make, move and delete collections."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from twinsight_client.cli import exits
from twinsight_client.cli.collection_files import CollectionFile
from twinsight_client.cli.embedders import default_embedder
from twinsight_client.cli.help import examples
from twinsight_client.cli.moving import Importer, ImportReport, export_collection
from twinsight_client.cli.output import check_writable, write_error, write_json
from twinsight_client.cli.progress import progress_bar
from twinsight_client.cli.settings import PATIENT, Settings, shared_options
from twinsight_client.cli.tables import write_fields, write_table
from twinsight_client.errors import DataLoss, FailedPrecondition, PermissionDenied, Unavailable
from twinsight_client.results import CollectionInfo, ItemError, Metric

_METRICS = click.Choice([one.value for one in Metric if one is not Metric.UNSPECIFIED])


@click.group(
    invoke_without_command=True,
    short_help="List, describe, make, move and delete collections.",
    epilog=examples(
        "twinsight collections",
        "twinsight collections get photos",
        "twinsight collections create vectors --dimension 512 --metric euclidean",
        "twinsight collections export photos --out photos.jsonl",
        "twinsight collections delete photos --yes",
    ),
)
@shared_options()
@click.pass_context
def collections(context: click.Context) -> None:
    """List the collections, or do something with one of them."""
    if context.invoked_subcommand is None:
        context.invoke(list_)


@collections.command("list", short_help="List all collections.")
@shared_options()
@click.pass_obj
def list_(settings: Settings) -> None:
    """List all collections."""
    with settings.client() as client:
        found = client.list_collections()
    if settings.as_json:
        write_json({"collections": found})
        return
    write_table(
        ("collection", "model", "metric", "dimension ", "items ", "state"),
        [(one.id, one.model, one.metric, one.dimension, one.item_count, one.state) for one in found],
    )
    if not found:
        write_error("There are no collections yet. Make one with: twinsight index DIR")


@collections.command(short_help="Describe one collection.", epilog=examples("twinsight collections get photos"))
@click.argument("collection")
@shared_options()
@click.pass_obj
def get(settings: Settings, collection: str) -> None:
    """Describe COLLECTION: its model, metric and dimension, how many items it holds, and its state."""
    with settings.client() as client:
        _tell(client.get_collection(collection), settings)


@collections.command(
    short_help="Make an empty collection.",
    epilog=examples(
        "twinsight collections create photos",
        "twinsight collections create vectors --dimension 512 --metric euclidean",
    ),
)
@click.argument("collection")
@click.option(
    "--model",
    default="",
    metavar="NAME",
    help="Model that embeds its pictures.  [default: the server's, or its only one for this, unless --dimension]",
)
@click.option("--dimension", type=click.IntRange(1, 4096), help="Take vectors made elsewhere, of this many components.")
@click.option(
    "--metric", type=_METRICS, default=Metric.COSINE.value, show_default=True, help="How nearness is measured."
)
@shared_options()
@click.pass_obj
def create(settings: Settings, collection: str, model: str, dimension: int | None, metric: str) -> None:
    """Make COLLECTION, bound to a model or, with --dimension, to vectors that are made elsewhere."""
    if model and dimension:
        raise click.UsageError("--model and --dimension exclude each other: a model has its own dimension.")
    with settings.client() as client:
        if not model and not dimension:
            model = default_embedder(client)
        _tell(client.create_collection(collection, model=model, dimension=dimension or 0, metric=metric), settings)


@collections.command(
    short_help="Delete a collection and all it holds.",
    epilog=examples("twinsight collections delete photos", "twinsight collections delete photos --yes"),
)
@click.argument("collection")
@click.option("--yes", "-y", is_flag=True, help="Don't ask before deleting.")
@shared_options()
@click.pass_obj
def delete(settings: Settings, collection: str, yes: bool) -> None:
    """Delete COLLECTION and all it holds, also where it is damaged. There is no way back."""
    with settings.client() as client:
        try:
            count = client.get_collection(collection).item_count
        except (DataLoss, FailedPrecondition, PermissionDenied, Unavailable) as error:
            # Damaged, refused, broken, or not ours to read: it can't be counted, but it can be deleted.
            if isinstance(error, Unavailable) and error.reason != "COLLECTION_BROKEN":
                raise
            count = None
        items = "an unknown number of items" if count is None else f"{count} items"
        if not yes:
            click.confirm(f"Delete collection {collection} with {items}?", abort=True, err=True)
        client.delete_collection(collection)
    if settings.as_json:
        write_json({"deleted": collection, "item_count": count})
    else:
        write_error(f"Deleted {collection} ({items}).")


@collections.command(
    "delete-items",
    short_help="Delete items of a collection.",
    epilog=examples(
        "twinsight collections delete-items photos cat.jpg",
        "twinsight collections delete-items people person-7 person-8 --purge",
    ),
)
@click.argument("collection")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--purge", is_flag=True, help="Leave nothing of them, nor of earlier deletions, in the server's data folder."
)
@shared_options()
@click.pass_obj
def delete_items(settings: Settings, collection: str, ids: tuple[str, ...], purge: bool) -> None:
    """Delete the items of COLLECTION that have these ids. There is no way back.

    Ids that are not there are listed, and the exit code is 3.

    With --purge the collection's file is written anew, so that no byte of them stays in it: give it time with
    --timeout if the collection is large. Ids that are gone already may be purged too. Backups are not reached.
    """
    with settings.client() as client:
        deleted = client.delete_items(collection, ids, purge=purge)
    missing = [one for one, answer in zip(ids, deleted, strict=True) if isinstance(answer, ItemError)]
    if settings.as_json:
        write_json({"deleted_count": deleted.deleted_count, "missing": missing, "purged": purge})
    else:
        for one in missing:
            write_error(f"{one}: not there")
        write_error(f"Deleted {deleted.deleted_count} items{', and erased them' if purge else ''}.")
    if missing:
        raise click.exceptions.Exit(exits.PARTIAL)


@collections.command(
    "export",
    short_help="Write a collection to a file.",
    epilog=examples(
        "twinsight collections export photos --out photos.jsonl",
        "twinsight --target old:50051 collections export photos --out photos.jsonl",
    ),
)
@click.argument("collection")
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it here; a file that is there is replaced.",
)
@shared_options()
@click.pass_obj
def export(settings: Settings, collection: str, out: Path) -> None:
    """Write the items of COLLECTION to a file of JSON Lines: ids, vectors and metadata.

    `twinsight collections import` takes it up again, on this server or another, under this name or another. The file
    is yours alone (0600), since who has vectors can search for what they are of; it appears when it is whole.

    Let nothing write to the collection meanwhile: where the file holds another number of items than the collection
    afterwards, that is told, and the exit code is 3.
    """
    check_writable(out)
    with settings.client(retry=PATIENT) as client:
        client.health()  # is never tried again: a server that is not there is told of at once
        info = client.get_collection(collection)
        with progress_bar(shown=not settings.as_json and sys.stderr.isatty()) as progress:
            task = progress.add_task(collection, total=info.item_count)
            report = export_collection(client, info, out, advance=lambda count: progress.advance(task, count))
    if settings.as_json:
        write_json(report)
    else:
        write_error(f"Exported {collection}: {out} ({report.items} items)")
    if report.items != report.item_count:
        write_error(
            f"The file has {report.items} items, {collection} has {report.item_count} by now: it was written to "
            "meanwhile. Export it again when nothing writes to it."
        )
        raise click.exceptions.Exit(exits.PARTIAL)


@collections.command(
    "import",
    short_help="Write the items of a file to a collection.",
    epilog=examples(
        "twinsight collections import photos.jsonl",
        "twinsight --target new:50051 collections import photos.jsonl",
        "twinsight collections import photos.jsonl --collection copy-of-photos",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--collection", "-c", metavar="NAME", default="", help="Collection; made if it is missing.  [default: as exported]"
)
@shared_options()
@click.pass_obj
def import_(settings: Settings, file: Path, collection: str) -> None:
    """Write the items of FILE, which `twinsight collections export` made, to a collection.

    A collection that is missing is made like the one that was exported: of its metric and its dimension, bound to the
    same model, under whatever name that is served here. One that is there and differs in any of them is refused. Items
    of the same ids are replaced, others stay.

    Run it again to go on after an interruption: items that the server has just as they are in FILE are skipped. A file
    that is damaged or cut short is refused before anything is written. Items that the server refuses are listed, and
    the exit code is 3.
    """
    with file.open("rb") as opened:
        if not opened.seekable():
            raise click.BadParameter(f"{file} must be a file: it is read twice.", param_hint="FILE")
        checked = CollectionFile(opened, str(file))
        with (
            settings.client(retry=PATIENT) as client,
            progress_bar(shown=not settings.as_json and sys.stderr.isatty()) as progress,
        ):
            client.health()
            task = progress.add_task(collection or checked.header.collection, total=checked.header.item_count)
            importer = Importer(
                client,
                checked,
                collection=collection,
                name=str(file),
                advance=lambda count: progress.advance(task, count),
            )
            importer.prepare()
            try:
                importer.run()
            finally:
                progress.stop()
                _tell_of_import(importer.report, as_json=settings.as_json)
    if importer.report.skipped:
        raise click.exceptions.Exit(exits.PARTIAL)


def _tell_of_import(report: ImportReport, *, as_json: bool) -> None:
    """Prints what was done, also where the run broke off."""
    if as_json:
        write_json(report)
        return
    for one in report.skipped:
        write_error(f"skipped {one.id}: {one.message} [{one.reason}]")
    write_fields(
        {
            "collection": f"{report.collection} (new)" if report.created else report.collection,
            "items": report.items,
            "unchanged": report.unchanged,
            "written": report.written,
            "skipped": len(report.skipped),
            "time": f"{report.seconds:.1f} s",
        }
    )
    if not report.finished:
        write_error("Not finished: run the same command again to go on.")


def _tell(info: CollectionInfo, settings: Settings) -> None:
    if settings.as_json:
        write_json(info)
        return
    write_fields(
        {
            "collection": info.id,
            "model": info.model or "none (vectors made elsewhere)",
            "digest": info.model_digest,
            "metric": info.metric,
            "dimension": info.dimension,
            "items": f"{info.item_count} ({info.indexed_count} indexed)",
            "state": info.state,
            "created": info.create_time.isoformat(timespec="seconds") if info.create_time else "",
        }
    )
