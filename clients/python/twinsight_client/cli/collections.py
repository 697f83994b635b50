"""`twinsight collections`: list, describe, make and delete collections."""

from __future__ import annotations

import click

from twinsight_client.cli import exits
from twinsight_client.cli.embedders import default_embedder
from twinsight_client.cli.help import examples
from twinsight_client.cli.output import write_error, write_fields, write_json, write_table
from twinsight_client.cli.settings import Settings, shared_options
from twinsight_client.errors import DataLoss, FailedPrecondition, PermissionDenied, Unavailable
from twinsight_client.results import CollectionInfo, ItemError, Metric

_METRICS = click.Choice([one.value for one in Metric if one is not Metric.UNSPECIFIED])


@click.group(
    invoke_without_command=True,
    short_help="List, describe, make and delete collections.",
    epilog=examples(
        "twinsight collections",
        "twinsight collections get photos",
        "twinsight collections create vectors --dimension 512 --metric euclidean",
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
