"""`twinsight keyring`: create the keys that encrypt what is kept on disk."""

from __future__ import annotations

import os
from pathlib import Path

import click

from twinsight_core.commands.failing import exit_on_failure
from twinsight_core.commands.folders import keyring_option
from twinsight_core.commands.output import write_line
from twinsight_core.errors import AlreadyExists, InvalidInput, NotFound
from twinsight_core.sealing.keyring import ENVIRONMENT, Keyring, change_keyring, new_key, read_keyring


@click.group(
    help="""Create, list and remove the keys that encrypt what is kept on disk (`serve --keyring`).

    Keep a copy of the keyring apart from the disk and its backups: data encrypted with a lost key is lost.

    \b
    Examples:
      twinsight keyring new --keyring keyring.json
      twinsight keyring add --keyring keyring.json       # the new key is the primary; then `twinsight rekey`
      twinsight keyring list --keyring keyring.json
      twinsight keyring remove 5d41402abc4b2a76 --keyring keyring.json
    """,
)
def keyring() -> None:
    """Groups the commands on keys."""


@keyring.command()
@keyring_option("File to create; must not exist.")
def new(*, keyring: str) -> None:
    """Create a keyring with one random key, readable only by you."""
    key = new_key()

    def change(there: Keyring | None) -> Keyring:
        if there is not None:
            raise AlreadyExists(f"`{keyring}` already exists; nothing was written.", reason="KEYRING_EXISTS")
        return Keyring(key)

    with exit_on_failure():
        change_keyring(_path(keyring), change)
    write_line(key.id)


@keyring.command()
@keyring_option("The file.")
def add(*, keyring: str) -> None:
    """Add a random key and make it the primary."""
    key = new_key()
    with exit_on_failure():
        change_keyring(_path(keyring), lambda there: _present(there, keyring).with_primary(key))
    write_line(key.id)


@keyring.command("list")
@keyring_option("The file, or env:NAME.")
def list_(*, keyring: str) -> None:
    """List the ids of the keys, the primary first."""
    with exit_on_failure():
        keys = read_keyring(keyring)
    for key in keys:
        write_line(f"{key.id}: made {key.created:%Y-%m-%d}{', primary' if key is keys.primary else ''}")


@keyring.command()
@click.argument("key_id")
@keyring_option("The file.")
def remove(*, key_id: str, keyring: str) -> None:
    """Remove the key KEY_ID, which must not be the primary. Data encrypted with it can no longer be read."""

    def change(there: Keyring | None) -> Keyring:
        keys = _present(there, keyring)
        if keys.get(key_id) is None:
            raise NotFound.among("Key", key_id, (one.id for one in keys), reason="KEY_NOT_FOUND")
        if keys.primary.id == key_id:
            raise InvalidInput(f"`{key_id}` is the primary key; add another first.", reason="KEY_IS_PRIMARY")
        return keys.without(key_id)

    with exit_on_failure():
        change_keyring(_path(keyring), change)


def _present(there: Keyring | None, name: str) -> Keyring:
    """Returns the keyring, which must exist.

    Raises:
        NotFound: it does not.
    """
    if there is None:
        raise NotFound(f"The keyring `{name}` does not exist.", reason="KEYRING_NOT_FOUND")
    return there


def _path(keyring: str) -> Path:
    """Returns the file to write a keyring to.

    Raises:
        InvalidInput: it is not a file.
    """
    if keyring.startswith(ENVIRONMENT):
        raise InvalidInput(f"`{keyring}` is not a file and can't be written.", reason="KEYRING_INVALID")
    return Path(os.path.expanduser(keyring))  # noqa: PTH111 - as `read_keyring` does
