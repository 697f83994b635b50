"""`twinsight backups`: list a backup's collections, or remove some of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from twinsight_core.commands.failing import exit_on_failure
from twinsight_core.commands.output import write_line
from twinsight_core.commands.paths import PathType
from twinsight_core.storage.backups import read_manifest
from twinsight_core.storage.removing import left_over, take_out

_backup = click.argument("backup", type=PathType(file_okay=False))


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""List a backup's collections, or remove some of them.

    \b
    Examples:
      twinsight backups list /backup/monday
      twinsight backups remove /backup/monday customer-7
    """,
)
def backups() -> None:
    """Groups the commands on backups."""


@backups.command("list")
@_backup
def list_(*, backup: Path) -> None:
    """List the collections in BACKUP's manifest."""
    with exit_on_failure():
        manifest = read_manifest(backup)
        left = left_over(backup, manifest)
    write_line(f"{backup}: made {_time(manifest.created_at)}, {len(manifest.collections)} collections")
    for entry in manifest.collections:
        write_line(f"{entry.id}: {entry.item_count} items, {entry.size} bytes")
    for name in left:
        write_line(
            f"twinsight: `{name}` exists but is not in the manifest: its removal was interrupted. Remove it again.",
            err=True,
        )


@backups.command()
@_backup
@click.argument("collections", nargs=-1, required=True)
def remove(*, backup: Path, collections: tuple[str, ...]) -> None:
    """Remove COLLECTIONS from BACKUP: from its manifest and from the disk. This can't be undone."""
    with exit_on_failure():
        left = take_out(backup, collections)
    for name in dict.fromkeys(collections):
        write_line(f"{backup}: removed {name}")
    write_line(f"{backup}: {len(left.collections)} collections left")


def _time(created_at: float) -> str:
    try:
        return f"{datetime.fromtimestamp(created_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):  # in no year that datetime knows
        return "at an unknown time"
