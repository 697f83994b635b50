"""`twinsight search`: the items most similar to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from twinsight_client.cli.conditions import filter_given
from twinsight_client.cli.help import examples
from twinsight_client.cli.numbers import FiniteRange
from twinsight_client.cli.output import percent, write_error, write_json
from twinsight_client.cli.pictures import stored_file
from twinsight_client.cli.settings import Settings, shared_options
from twinsight_client.cli.sheet import Tile, contact_sheet
from twinsight_client.cli.tables import write_table
from twinsight_client.cli.whole_files import save_picture
from twinsight_client.errors import PermissionDenied
from twinsight_client.images import ImageInput, Region
from twinsight_client.items import ItemId
from twinsight_client.results import Match


class RegionParam(click.ParamType[Region]):
    """X_MIN,Y_MIN,X_MAX,Y_MAX in fractions."""

    name = "region"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Region:
        """Returns the four numbers."""
        try:
            x_min, y_min, x_max, y_max = (float(one) for one in str(value).split(","))
        except ValueError:
            self.fail(f"{value} is not X_MIN,Y_MIN,X_MAX,Y_MAX.", param, ctx)
        if not (0 <= x_min < x_max <= 1 and 0 <= y_min < y_max <= 1):
            self.fail(f"{value} must be fractions from 0 to 1, each minimum below its maximum.", param, ctx)
        return x_min, y_min, x_max, y_max


@click.command(
    short_help="Find similar pictures.",
    epilog=examples(
        "twinsight search cat.jpg",
        "twinsight search cat.jpg --top-k 20 --sheet matches.png",
        'twinsight search cat.jpg --filter \'{"folder": "2024"}\'',
        'twinsight search cat.jpg --filter \'{"brand": ["acme", "zenith"], "year": {"gte": 2000}}\'',
        "twinsight search group.jpg --region 0.1,0.2,0.4,0.8",
        "twinsight search --item 2024/cat.jpg --exclude-self",
    ),
)
@click.argument("image", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--item", metavar="ID", help="Search by a stored item's id instead of a picture.")
@click.option("--exclude-self", is_flag=True, help="Leave the --item itself out of its matches.")
@click.option("--collection", "-c", metavar="NAME", default="photos", show_default=True, help="Collection to search.")
@click.option(
    "--top-k", "-k", type=click.IntRange(1, 2**31 - 1), default=10, show_default=True, help="Maximum matches."
)
@click.option("--filter", "condition", metavar="JSON", help="Only items whose metadata match this filter.")
@click.option("--min-score", type=FiniteRange(), help="Only matches with at least this score; the table shows scores.")
@click.option("--exact", is_flag=True, help="Compare with every item: exact, but slower.")
@click.option(
    "--region",
    type=RegionParam(),
    metavar="X_MIN,Y_MIN,X_MAX,Y_MAX",
    help="Search by this part of IMAGE only: edges as fractions 0 to 1 of its width and height.",
)
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a contact sheet of the query and its matches, .png or .jpg.",
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="For --sheet: where the pictures are, if not where they were indexed.",
)
@shared_options()
@click.pass_obj
def search(
    settings: Settings,
    *,
    image: Path | None,
    item: str | None,
    exclude_self: bool,
    collection: str,
    top_k: int,
    condition: str | None,
    min_score: float | None,
    exact: bool,
    region: Region | None,
    sheet: Path | None,
    root: Path | None,
) -> None:
    """Find the items of a collection that are most similar to IMAGE, closest first.

    A probability is that of one pair by itself, at even odds: in a large collection, many unrelated items have a high
    one. docs/scores.md explains how to choose --min-score.

    A filter is a JSON object whose members must all hold: a value to equal, a list to be in, bounds (gt, gte, lt, lte)
    or {"exists": true}; any_of, all_of and not combine such objects.
    """
    if (image is None) == (item is None):
        raise click.UsageError("Give either an IMAGE or an --item.")
    if item is not None and region is not None:
        raise click.UsageError("--region is a part of IMAGE; it can't be used with --item.")
    if exclude_self and item is None:
        raise click.UsageError("--exclude-self requires --item.")
    where = filter_given(condition)
    query = ItemId(item) if item is not None else ImageInput(image or Path(), region=region)
    with settings.client() as client:
        results = client.search(
            collection,
            [query],
            top_k=top_k,
            where=where,
            min_score=min_score,
            exact=exact,
            exclude_self=exclude_self,
        )
        (matches,) = results.values()
        if sheet is not None:
            source = image
            if item is not None:
                with suppress(PermissionDenied):  # a key that may search need not be one that may read
                    (stored,) = client.get_items(collection, [item]).values()
                    source = stored_file(item, stored.metadata, root=root)
            _write_sheet(
                sheet, Tile(source, ("query", image.name if image else item or ""), True, region), matches, root
            )
    if settings.as_json:
        write_json(
            {
                "collection": collection,
                "query": str(image) if image else item,
                "matches": matches,
                "request_id": results.call.request_id,
                "times": results.call.times,
            }
        )
        return
    write_table(
        ("# ", "score ", "probability ", "id"),
        [(place, f"{match.score:.4f}", percent(match.probability), match.id) for place, match in enumerate(matches, 1)],
    )


def _write_sheet(target: Path, query: Tile, matches: Sequence[Match], root: Path | None) -> None:
    """Writes the contact sheet and prints its path."""
    tiles = [query]
    for place, match in enumerate(matches, 1):
        said = f"{place}.  score {match.score:.3f}"
        if match.probability is not None:
            said += f"   p {percent(match.probability)}"
        tiles.append(Tile(stored_file(match.id, match.metadata, root=root), (said, match.id)))
    if any(tile.path is not None and tile.path.resolve() == target.resolve() for tile in tiles):
        raise click.BadParameter(f"{target} is one of the pictures, which is not overwritten.", param_hint="--sheet")
    picture = contact_sheet(tiles)
    try:
        save_picture(picture, target)
    except ValueError as error:
        raise click.BadParameter(f"{target.name} must end in .png or .jpg.", param_hint="--sheet") from error
    missing = sum(tile.path is None for tile in tiles)
    write_error(f"Sheet: {target}" + (f" ({missing} pictures not found; see --root)" if missing else ""))
