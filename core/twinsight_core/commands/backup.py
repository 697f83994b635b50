"""`twinsight backup`: copies of collections, while a server writes to them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from twinsight_core.commands.failing import PARTIAL, clean_up_at_sigterm, exit_on_failure
from twinsight_core.commands.folders import collection_options, data_dir_option
from twinsight_core.commands.output import write_line
from twinsight_core.commands.paths import PathType
from twinsight_core.errors import TwinsightError
from twinsight_core.storage.backups import back_up


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Copy collections of a data folder to a new folder; a server may be using it.

    The backup holds every write that was acknowledged before it began, and no partial batch. Run it as the server's
    user, on the server's machine.

    A damaged collection can't be backed up. The command names all damaged collections and makes no backup, unless
    --skip-damaged is given: then it backs up the others and exits with code 3.

    \b
    Examples:
      twinsight backup --data-dir /srv/twinsight --out /backup/monday --skip-damaged
      twinsight backup --data-dir /srv/twinsight --out /backup/photos --collection photos
      twinsight backup --data-dir /srv/twinsight --out /backup/tenants -c 'tenant-*' --exclude 'tenant-test-?'
    """,
)
@data_dir_option()
@click.option(
    "--out",
    type=PathType(),
    required=True,
    help="Folder to create; must neither exist nor lie among the collections.",
)
@collection_options
@click.option("--skip-damaged", is_flag=True, help="Skip collections that can't be copied, and list them at the end.")
def backup(*, data_dir: Path, out: Path, only: tuple[str, ...], exclude: tuple[str, ...], skip_damaged: bool) -> None:
    """Backs up as the options say."""
    skipped: list[TwinsightError] = []
    with exit_on_failure(), clean_up_at_sigterm():
        made = back_up(data_dir, out, only=only, exclude=exclude, on_damaged=skipped.append if skip_damaged else None)
    for entry in made.collections:
        write_line(f"{out / entry.id}: {entry.item_count} items, {entry.size} bytes")
    for error in skipped:
        write_line(f"twinsight: skipped: {error.message}", err=True)
    if skipped:
        sys.exit(PARTIAL)
