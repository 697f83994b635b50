"""`twinsight rekey`: encrypt a data folder, change its key, or decrypt it."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import click

from twinsight_core.commands.failing import exit_on_failure
from twinsight_core.commands.folders import data_dir_option, keyring_option
from twinsight_core.commands.output import write_line
from twinsight_core.sealing.keyring import Keyring, read_keyring
from twinsight_core.storage.rekeying import Failed, Rekeyed
from twinsight_core.storage.rekeying import rekey as rekeyed


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Encrypt everything in a data folder with the keyring's primary key, where it is not already.

    No server may use the folder. Collections are rewritten one at a time, which needs disk space for a second copy of
    each; run the command again to continue after an interruption. No earlier copy stays in the folder, plain or under
    another key.

    \b
    Examples:
      twinsight keyring new --keyring keyring.json           # the first time, or
      twinsight keyring add --keyring keyring.json           # another key, which becomes the primary
      twinsight rekey --data-dir /srv/twinsight --keyring keyring.json
    """,
)
@data_dir_option()
@keyring_option()
@click.option("--decrypt", is_flag=True, help="Store everything unencrypted instead.")
def rekey(*, data_dir: Path, keyring: str, decrypt: bool) -> None:
    """Encrypts as the options say."""
    with exit_on_failure():
        keys = read_keyring(keyring)
        done = rekeyed(data_dir, keys, decrypt=decrypt, on_done=_tell)
    if any(isinstance(one, Failed) for one in done):
        sys.exit(1)
    _tell_unused(keys, decrypt=decrypt)


def _tell(one: Rekeyed | Failed) -> None:
    with suppress(BrokenPipeError):  # the others are to be done even if nobody reads on
        write_line(_line(one), err=isinstance(one, Failed))


def _line(one: Rekeyed | Failed) -> str:
    if isinstance(one, Failed):
        return f"twinsight: {one.error.message}"
    after = "not encrypted" if one.after is None else f"encrypted with {one.after}"
    if one.before == one.after:
        return f"{one.id}: already {after}"
    return f"{one.id}: {one.item_count} items, {after}; before: {one.before or 'not encrypted'}"


def _tell_unused(keyring: Keyring, *, decrypt: bool) -> None:
    for key in keyring:
        if decrypt or key is not keyring.primary:
            write_line(f"The key {key.id} is no longer used in this folder; backups may still need it.")
