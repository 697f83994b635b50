"""`twinsight restore`: put a backup's collections into a data folder."""

from __future__ import annotations

from pathlib import Path

import click

from twinsight_core.commands.failing import exit_on_failure
from twinsight_core.commands.folders import collection_options, data_dir_option
from twinsight_core.commands.output import write_line
from twinsight_core.commands.paths import PathType
from twinsight_core.storage.restoring import restore as restored


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Restore the collections of BACKUP to a data folder that no server uses.

    Every file and row is checked before anything is put in place. The next server rebuilds the graphs. For an encrypted
    collection, the command prints the id of the key that the server's keyring must have.

    \b
    Examples:
      twinsight restore /backup/monday --data-dir /srv/twinsight
      twinsight restore /backup/monday --data-dir /srv/twinsight --collection photos --replace
      twinsight restore /backup/monday --data-dir /srv/twinsight --exclude customer-7
    """,
)
@click.argument("backup", type=PathType(file_okay=False))
@data_dir_option("The data folder; created if missing.")
@collection_options
@click.option("--replace", is_flag=True, help="Overwrite collections that exist.")
def restore(*, backup: Path, data_dir: Path, only: tuple[str, ...], exclude: tuple[str, ...], replace: bool) -> None:
    """Restores as the options say."""
    with exit_on_failure():
        done = restored(backup, data_dir, only=only, exclude=exclude, replace=replace)
    for one in done:
        key = "" if one.key_id is None else f", encrypted with the key {one.key_id}"
        write_line(f"{data_dir}: collection {one.id}, {one.item_count} items{key}")
