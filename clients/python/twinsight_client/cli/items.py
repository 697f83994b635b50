"""`twinsight items`: the items of a collection."""

from __future__ import annotations

import json

import click

from twinsight_client.cli.conditions import filter_given
from twinsight_client.cli.help import examples
from twinsight_client.cli.output import plain, write_error, write_json
from twinsight_client.cli.settings import Settings, shared_options
from twinsight_client.cli.tables import write_table
from twinsight_client.client import Client
from twinsight_client.filters import Filter
from twinsight_client.results import Item

PAGE = 500
"""Items per page; the server accepts at most 1000."""


@click.command(
    short_help="List the items of a collection.",
    epilog=examples(
        "twinsight items photos",
        'twinsight items photos --filter \'{"folder": "2024", "label": "hat"}\'',
        "twinsight items photos --limit 0 --json",
    ),
)
@click.argument("collection")
@click.option("--filter", "condition", metavar="JSON", help="Only items whose metadata match this filter.")
@click.option(
    "--limit",
    type=click.IntRange(0, 2**31 - 1),
    default=100,
    show_default=True,
    metavar="N",
    help="Maximum number of items; 0: all.",
)
@shared_options()
@click.pass_obj
def items(settings: Settings, *, collection: str, condition: str | None, limit: int) -> None:
    """List the items of COLLECTION by id, with their metadata.

    Filters are the same as for `twinsight search`. Vectors are left out; `twinsight collections export` has them.
    """
    where = filter_given(condition)
    with settings.client() as client:
        found, more = _read(client, collection, where, limit)
    if settings.as_json:
        listed = [{"id": item.id, "metadata": item.metadata} for item in found]
        write_json({"collection": collection, "items": listed, "more": more})
        return
    # As JSON, like filters: "7" is not 7.
    write_table(("id", "metadata"), [(item.id, json.dumps(plain(item.metadata), ensure_ascii=False)) for item in found])
    if more:
        write_error(f"There are more than {limit} items; see --limit and --filter.")


def _read(client: Client, collection: str, where: Filter | None, limit: int) -> tuple[list[Item], bool]:
    """Returns at most `limit` items, and whether there are more."""
    found: list[Item] = []
    size = PAGE if not limit else min(PAGE, limit + 1)
    for page in client.list_items(collection, where=where, page_size=size):
        found += page.values()
        if limit and len(found) > limit:
            return found[:limit], True
    return found, False
