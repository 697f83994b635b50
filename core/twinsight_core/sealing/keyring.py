"""The keys that seal what is on disk: JSON in a file or an environment variable, made by `twinsight keyring`.

    {"primary": "5d41402abc4b2a76",
     "keys": {"5d41402abc4b2a76": {"secret": "q83vEjRW...", "created": "2026-03-01T12:00:00+00:00"}}}

`secret` is 32 random bytes as Base64. A key's id is derived from its secret, so that a key can't have another's id; it
reveals nothing of the secret, and is stored beside what was sealed. The primary key seals new data; the others open
what they sealed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from twinsight_core.errors import StartupError
from twinsight_core.host.whole_files import rewrite_whole, rewriting
from twinsight_core.json_fields import JsonFields, unique_members

ENVIRONMENT = "env:"
"""Prefix of a keyring's source that names an environment variable with its content."""

_SECRET = 32


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        secret: 32 random bytes.
        created: when it was made.
    """

    secret: bytes = field(repr=False)
    created: datetime

    @property
    def id(self) -> str:
        """16 hexadecimal digits, derived from the secret."""
        return hashlib.sha256(b"twinsight key id " + self.secret).hexdigest()[:16]


class Keyring:
    """An immutable set of keys, the first of which is the primary."""

    def __init__(self, primary: Key, others: Iterable[Key] = ()) -> None:
        self.primary = primary
        self._by_id = {one.id: one for one in (primary, *others)}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_id.values())

    def get(self, key_id: str) -> Key | None:
        """Returns the key with an id; None if there is none."""
        return self._by_id.get(key_id)

    def with_primary(self, key: Key) -> Keyring:
        """Returns these keys and a new primary key."""
        return Keyring(key, self)

    def without(self, key_id: str) -> Keyring:
        """Returns the keys without one, which must not be the primary."""
        return Keyring(self.primary, (one for one in self if one.id != key_id))


def new_key() -> Key:
    """Returns a new random key."""
    return Key(secrets.token_bytes(_SECRET), datetime.now(UTC).replace(microsecond=0))


def read_keyring(source: str) -> Keyring:
    """Returns a keyring.

    Args:
        source: path of a file that only its owner, and perhaps a group, may read, `~` for the home folder; or
            `env:NAME`.

    Raises:
        StartupError: it does not exist or is invalid, or others may read the file; the message contains no secret.
    """
    if source.startswith(ENVIRONMENT):
        name = source.removeprefix(ENVIRONMENT)
        content = os.environb.get(name.encode())
        if content is None:
            raise StartupError(f"The keyring `{source}` does not exist: `{name}` is not set.", reason="KEYRING_INVALID")
        return _parsed(content, source)
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - pathlib's fails without a home folder
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise StartupError(f"The keyring `{source}` can't be read: {why}.", reason="KEYRING_INVALID") from None
    if mode & 0o027:
        raise StartupError(
            f"The keyring `{source}` has the mode {mode & 0o777:03o}: others may read or change it. "
            "Restrict it to its owner (`chmod 600`); a group may read it (`chmod 640`).",
            reason="KEYRING_EXPOSED",
        )
    return _parsed(content, source)


def change_keyring(path: Path, change: Callable[[Keyring | None], Keyring]) -> None:
    """Changes a keyring's file; the result is on disk when this returns.

    Only its owner can read a new file; an existing one keeps its owner, group and mode. A symbolic link's target is
    written. Concurrent changes wait for one another.

    Args:
        path: the file.
        change: returns the keyring to write, given the existing one or None.

    Raises:
        StartupError: the existing file is invalid.
        OSError: it can't be written, or not with its owner and group.
    """
    with rewriting(path) as file:
        keyring = change(read_keyring(str(path)) if os.path.lexists(file) else None)
        # Durably: data sealed with a lost key is lost.
        rewrite_whole(file, _written(keyring))


def _written(keyring: Keyring) -> bytes:
    keys = {
        one.id: {"secret": base64.b64encode(one.secret).decode(), "created": one.created.isoformat()} for one in keyring
    }
    return json.dumps({"primary": keyring.primary.id, "keys": keys}, indent=2).encode() + b"\n"


def _parsed(content: bytes, source: str) -> Keyring:
    try:
        top = JsonFields(json.loads(content, object_pairs_hook=unique_members), names=("primary", "keys"))
        primary, keys = top.text("primary"), top.object("keys")
        found = {name: _key(name, keys) for name in keys.names()}
        if primary not in found:
            raise ValueError("`primary` must be the id of one of `keys`.")
    except (ValueError, RecursionError) as error:
        # A decoder's error would contain the content.
        words = "it is not JSON." if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)
        raise StartupError(f"The keyring `{source}` is invalid: {words}", reason="KEYRING_INVALID") from None
    return Keyring(found.pop(primary), found.values())


def _key(name: str, keys: JsonFields) -> Key:
    fields = keys.object(name, names=("secret", "created"))
    key = Key(_secret(fields, name), _time(fields))
    if key.id != name:
        raise ValueError(f"the id of `keys.{name:.40}` does not match its secret.")
    return key


def _secret(fields: JsonFields, name: str) -> bytes:
    try:
        secret = base64.b64decode(fields.text("secret"), validate=True)
    except (ValueError, binascii.Error):
        secret = b""
    if len(secret) != _SECRET:
        raise ValueError(f"`keys.{name:.40}.secret` must be {_SECRET} bytes as Base64.")
    return secret


def _time(fields: JsonFields) -> datetime:
    try:
        time = datetime.fromisoformat(fields.text("created"))
    except ValueError:  # its text contains the value, which may be the secret
        time = None
    if time is None or time.tzinfo is None:
        raise ValueError("`created` must be a time with a time zone (`2026-03-01T12:00:00+00:00`).")
    return time
