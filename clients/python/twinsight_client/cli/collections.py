"""`twinsight collections`: list, describe, create, export, import and delete collections."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

import click

from twinsight_client.cli import exits
from twinsight_client.cli.collection_files import CollectionFile
from twinsight_client.cli.conditions import filter_given
from twinsight_client.cli.embedders import default_embedder
from twinsight_client.cli.help import examples
from twinsight_client.cli.items import PAGE
from twinsight_client.cli.moving import Importer, ImportReport, export_collection
from twinsight_client.cli.output import write_error, write_json
from twinsight_client.cli.progress import progress_bar
from twinsight_client.cli.settings import PATIENT, Settings, shared_options
from twinsight_client.cli.tables import write_fields, write_table
from twinsight_client.cli.whole_files import check_replaceable
from twinsight_client.client import Client
from twinsight_client.errors import DataLoss, FailedPrecondition, PermissionDenied, Unavailable
from twinsight_client.filters import Filter
from twinsight_client.results import CollectionInfo, ItemError, Metric

_METRICS = click.Choice([one.value for one in Metric if one is not Metric.UNSPECIFIED])


@click.group(
    invoke_without_command=True,
    short_help="List, describe, create, move and delete collections.",
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
    """List the collections, or work on one of them."""
    if context.invoked_subcommand is None:
        context.invoke(list_)


@collections.command("list", short_help="List all collections.")
@shared_options()
@click.pass_obj
def list_(settings: Settings) -> None:
    """List all collections."""
    with settings.client() as client:
        found = client.list_collections()
        served = _served(client, settings)
    if settings.as_json:
        write_json({"collections": found})
        return
    write_table(
        ("collection", "model", "metric", "dimension ", "items ", "state"),
        [(one.id, _model(one, served), one.metric, one.dimension, one.item_count, one.state) for one in found],
    )
    if not found:
        write_error("There are no collections yet. Create one with: twinsight index DIR")


@collections.command(short_help="Describe one collection.", epilog=examples("twinsight collections get photos"))
@click.argument("collection")
@shared_options()
@click.pass_obj
def get(settings: Settings, collection: str) -> None:
    """Describe COLLECTION: its model, and whether that is served, metric, dimension, number of items and state."""
    with settings.client() as client:
        _print_info(client.get_collection(collection), _served(client, settings), settings)


@collections.command(
    short_help="Create an empty collection.",
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
    help="Model that embeds its pictures.  [default without --dimension: the server's, or its only model for this]",
)
@click.option("--dimension", type=click.IntRange(1, 4096), help="Bind to no model; take vectors of this dimension.")
@click.option(
    "--metric", type=_METRICS, default=Metric.COSINE.value, show_default=True, help="How distance is measured."
)
@shared_options()
@click.pass_obj
def create(settings: Settings, collection: str, model: str, dimension: int | None, metric: str) -> None:
    """Create COLLECTION, bound to a model or, with --dimension, for vectors made elsewhere."""
    if model and dimension:
        raise click.UsageError("--model and --dimension exclude each other: a model has its own dimension.")
    with settings.client() as client:
        if not model and not dimension:
            model = default_embedder(client)
        made = client.create_collection(collection, model=model, dimension=dimension or 0, metric=metric)
    _print_info(made, {made.model_digest}, settings)


@collections.command(
    short_help="Delete a collection and everything in it.",
    epilog=examples("twinsight collections delete photos", "twinsight collections delete photos --yes"),
)
@click.argument("collection")
@click.option("--yes", "-y", is_flag=True, help="Don't ask before deleting.")
@shared_options()
@click.pass_obj
def delete(settings: Settings, collection: str, yes: bool) -> None:
    """Delete COLLECTION and everything in it, even if it is damaged. This can't be undone."""
    with settings.client() as client:
        try:
            count = client.get_collection(collection).item_count
        except (DataLoss, FailedPrecondition, PermissionDenied, Unavailable) as error:
            # Damaged, refused, broken or not readable with this key: can't be counted, but can be deleted.
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
        'twinsight collections delete-items shop --filter \'{"brand": "acme"}\'',
    ),
)
@click.argument("collection")
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--filter", "condition", metavar="JSON", help="Delete every item whose metadata match this filter.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask before deleting by filter.")
@click.option("--purge", is_flag=True, help="Erase these items and earlier deletions from the server's data folder.")
@shared_options()
@click.pass_obj
def delete_items(
    settings: Settings, *, collection: str, ids: tuple[str, ...], condition: str | None, yes: bool, purge: bool
) -> None:
    """Delete the items of COLLECTION with these ids, or all that match a filter. This can't be undone.

    Missing ids are listed, and the exit code is 3. Filters are the same as for `twinsight search`; `twinsight items`
    lists what one matches.

    --purge rewrites the collection's file, so that no byte of these items stays in it; raise --timeout for a large
    collection. Ids that were deleted before can be purged, too. Backups are not changed.
    """
    if bool(ids) == (condition is not None):
        raise click.UsageError("Give either ids or a --filter.")
    where = filter_given(condition)
    with settings.client() as client:
        if where is not None and not yes:
            count = _count(client, collection, where)
            items = "an unknown number of items" if count is None else f"{count} items"
            click.confirm(f"Delete {items} of {collection} that match {condition}?", abort=True, err=True)
        deleted = client.delete_items(collection, ids, where=where, purge=purge)
    missing = [one for one, answer in zip(ids, deleted, strict=True) if isinstance(answer, ItemError)]
    if settings.as_json:
        write_json({"deleted_count": deleted.deleted_count, "missing": missing, "purged": purge})
    else:
        for one in missing:
            write_error(f"not found: {one}")
        write_error(f"Deleted {deleted.deleted_count} items{', and erased them' if purge else ''}.")
    if missing:
        raise click.exceptions.Exit(exits.PARTIAL)


def _count(client: Client, collection: str, where: Filter) -> int | None:
    """Returns how many items match a filter; None if the key may write, but not read."""
    try:
        return sum(len(page) for page in client.list_items(collection, where=where, page_size=PAGE))
    except PermissionDenied:
        return None


@collections.command(
    "export",
    short_help="Export a collection to a file.",
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
    help="File to write; an existing one is replaced.",
)
@shared_options()
@click.pass_obj
def export(settings: Settings, collection: str, out: Path) -> None:
    """Export the items of COLLECTION to a file of JSON Lines: ids, vectors and metadata.

    `twinsight collections import` reads it, on this server or another, under this name or another. Only you can read
    the file (mode 0600; on Windows, who may read the folder), since vectors can be used to search for what they show;
    it appears when it is complete.

    Stop writes to the collection during the export: if the file and the collection hold different numbers of items
    afterwards, a message says so, and the exit code is 3.
    """
    check_replaceable(out)
    with settings.client(retry=PATIENT) as client:
        client.health()  # never retried: an unreachable server is reported at once
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
            f"The file has {report.items} items, but {collection} now has {report.item_count}: it was written to "
            "during the export. Export it again when nothing writes to it."
        )
        raise click.exceptions.Exit(exits.PARTIAL)


@collections.command(
    "import",
    short_help="Import a file into a collection.",
    epilog=examples(
        "twinsight collections import photos.jsonl",
        "twinsight --target new:50051 collections import photos.jsonl",
        "twinsight collections import photos.jsonl --collection copy-of-photos",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--collection", "-c", metavar="NAME", default="", help="Collection; created if missing.  [default: as exported]"
)
@shared_options()
@click.pass_obj
def import_(settings: Settings, file: Path, collection: str) -> None:
    """Import FILE, written by `twinsight collections export`, into a collection.

    A missing collection is created like the exported one: with its metric and dimension, bound to the same model under
    whatever name that is served here. An existing one that differs in any of these is rejected. Items with the same ids
    are replaced; others are kept.

    Run it again to continue after an interruption: items that the server already has exactly as in FILE are not sent
    again. A damaged or truncated file is rejected before anything is written. Items that the server rejects are listed,
    and the exit code is 3.
    """
    with file.open("rb") as opened:
        if not opened.seekable():
            raise click.BadParameter(f"{file} must be a regular file, because it is read twice.", param_hint="FILE")
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
                _print_import(importer.report, as_json=settings.as_json)
    if importer.report.skipped:
        raise click.exceptions.Exit(exits.PARTIAL)


def _print_import(report: ImportReport, *, as_json: bool) -> None:
    """Prints what was done, even if the run was interrupted."""
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
        write_error("Not finished: run the same command again to continue.")


def _served(client: Client, settings: Settings) -> set[str]:
    """Returns the digests of the models that are served; none for JSON, which has each collection's digest itself."""
    return set() if settings.as_json else {card.digest for card in client.list_models()}


def _model(info: CollectionInfo, served: Collection[str]) -> str:
    """Returns the name of a collection's model; one that has changed since is another, under the same name."""
    return info.model if not info.model_digest or info.model_digest in served else f"{info.model} (not served)"


def _print_info(info: CollectionInfo, served: Collection[str], settings: Settings) -> None:
    if settings.as_json:
        write_json(info)
        return
    write_fields(
        {
            "collection": info.id,
            "model": _model(info, served) or "none (vectors made elsewhere)",
            "digest": info.model_digest,
            "metric": info.metric,
            "dimension": info.dimension,
            "items": f"{info.item_count} ({info.indexed_count} indexed)",
            "state": info.state,
            "created": info.create_time.isoformat(timespec="seconds") if info.create_time else "",
        }
    )
