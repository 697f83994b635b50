"""`twinsight backup`: copies of collections, while a server writes to them."""

from __future__ import annotations

from pathlib import Path

import click

from twinsight_core.commands.failing import clean_up_at_sigterm, exit_on_failure
from twinsight_core.commands.folders import data_dir_option
from twinsight_core.commands.output import write_line
from twinsight_core.storage.backups import back_up


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Copy collections of a data folder to a new folder, also while a server uses it.

    Every write that was answered before the backup began is in it, and no batch by half. Run it as the server's user,
    on the server's machine.

    \b
    Examples:
      twinsight backup --data-dir /srv/twinsight --out /backup/monday
      twinsight backup --data-dir /srv/twinsight --out /backup/photos --collection photos
    """,
)
@data_dir_option()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make; must not be there.")
@click.option("--collection", "-c", "only", multiple=True, metavar="NAME", help="This one alone; may be repeated.")
def backup(*, data_dir: Path, out: Path, only: tuple[str, ...]) -> None:
    """Backs up as the options say."""
    with exit_on_failure(), clean_up_at_sigterm():
        made = back_up(data_dir, out, only=only)
    for entry in made.collections:
        write_line(f"{out / entry.id}: {entry.item_count} items, {entry.size} bytes")
