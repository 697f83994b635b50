"""`twinsight salvage`: recover what can still be read of a damaged collection."""

from __future__ import annotations

from pathlib import Path

import click

from twinsight_core.commands.failing import clean_up_at_sigterm, exit_on_failure
from twinsight_core.commands.folders import data_dir_option
from twinsight_core.commands.output import write_line
from twinsight_core.commands.paths import PathType
from twinsight_core.storage.salvaging import salvage as salvaged


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Write what can still be read of the damaged COLLECTION to a backup, and report what is lost.

    The damaged file is not changed. Prefer an earlier backup, if there is one.

    \b
    Example:
      twinsight salvage photos --data-dir /srv/twinsight --out /backup/salvaged
      twinsight restore /backup/salvaged --data-dir /srv/twinsight --replace
    """,
)
@click.argument("collection")
@data_dir_option()
@click.option("--out", type=PathType(), required=True, help="Folder of the backup to create.")
def salvage(*, collection: str, data_dir: Path, out: Path) -> None:
    """Salvages as the options say."""
    with exit_on_failure(), clean_up_at_sigterm():
        done = salvaged(data_dir, collection, out)
    lost = done.item_count - done.entry.item_count
    write_line(f"{out / collection}: {done.entry.item_count} of {done.item_count} items, {lost} lost")
    if not done.state_sound:
        write_line(
            "The collection's own description is not what was written: check its model and its time of creation."
        )
    if done.forgotten:
        write_line(f"{done.forgotten} bulk writes are no longer on record: run them again to write what was lost.")
