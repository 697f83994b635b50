"""The file of API keys: JSON, made by `twinsight keys` and fit to be edited.

    {"keys": {"phone": {
        "sha256": "9f86d0...", "created": "2026-03-01T12:00:00Z", "expires": "2027-03-01T00:00:00Z",
        "grants": [{"rights": ["read", "write"], "collections": ["photos*"]}],
        "share": {"calls_per_s": 20, "items_per_s": 200, "max_calls": 4, "max_streams": 2, "max_collections": 10}}}}

`expires`, `share` and each part of it may be missing.

Only digests of keys are kept. A plain SHA-256 is right for that: a key is 256 random bits, which nobody can guess, so
a slow hash with a salt, which passwords need, would only cost time in every call. A key is found by looking its digest
up: how long that takes can tell of digests alone, and nobody can make a key whose digest begins as another's does and
go on from there, so the key itself is never compared byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from twinsight_core.errors import StartupError
from twinsight_core.host.whole_files import rewrite_whole, rewriting
from twinsight_core.json_fields import OPTIONAL, JsonFields
from twinsight_server.access.principals import Grant, Principal, Share, Unproven, read_grants, read_share

PREFIX = "tws_"
"""Begins every key: by it scanners find those that leaked, and the server tells them from JWTs."""

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ApiKey:
    """A key as the file has it.

    Attributes:
        sha256: hexadecimal digest of the key.
        created: when it was made.
        grants: what its holder may do.
        expires: from when on it is refused; None: never.
        share: how much its holder may have.
    """

    sha256: str = field(repr=False)
    created: datetime
    grants: tuple[Grant, ...]
    expires: datetime | None = field(default=None, metadata=OPTIONAL)
    share: Share = field(default_factory=Share, metadata=OPTIONAL)


class KeyRing:
    """All keys of a file, by what is needed to check one."""

    def __init__(self, keys: Mapping[str, ApiKey]) -> None:
        self._known = {
            one.sha256: (Principal("key", name, one.grants, one.share), one.expires) for name, one in keys.items()
        }

    def principal(self, key: str, now: datetime) -> Principal:
        """Returns whose key it is.

        Raises:
            Unproven: nobody's, or it has expired.
        """
        principal, expires = self._known.get(digest(key), (None, None))
        if principal is None:
            raise Unproven("no such key")
        if expires is not None and now >= expires:
            raise Unproven(f"{principal} expired at {expires.isoformat(timespec='seconds')}")
        return principal


def digest(key: str) -> str:
    """Returns what the file keeps of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key() -> str:
    """Returns a key that nobody has: 256 random bits as text."""
    return PREFIX + secrets.token_urlsafe(32)


def check_name(name: str) -> None:
    """Checks the name of a key.

    Raises:
        ValueError: nobody could be called so.
    """
    if name.startswith(PREFIX):
        raise ValueError(f"A key's name can't begin with `{PREFIX}`, as keys do.")
    if not _NAME.fullmatch(name):
        raise ValueError(f"A key's name (={name!r:.80}) must be 1 to 64 letters, digits, '.', '_', '@' or '-'.")


def read_keys(content: bytes, *, path: Path) -> dict[str, ApiKey]:
    """Reads the content of a key file.

    Raises:
        StartupError: it is not right; the message says where, and holds nothing of a digest.
    """
    try:
        return _parsed(content)
    except (ValueError, RecursionError) as error:
        raise StartupError(f"{path}: is no file of keys: {error}", reason="KEY_FILE_INVALID") from None


@contextmanager
def changing(path: Path) -> Iterator[dict[str, ApiKey]]:
    """Gives the keys of a file to be changed, and writes them when the block ends without an error.

    Two at a time wait for one another. The new file is on disk before it takes the place of the old, whose owner, group
    and mode it has. Behind a symbolic link the file that it leads to is written.

    Raises:
        StartupError: the file is not right.
        ValueError: the changed keys could not be read again; the file is as it was.
        OSError: it can't be read or written, or not for those to whom it belongs.
    """
    with rewriting(path) as file:
        keys = read_keys(file.read_bytes(), path=path) if file.exists() else {}
        yield keys
        content = _written(keys)
        _parsed(content)
        # Durably: a key that was revoked must not come back with the power.
        rewrite_whole(file, content)


def _parsed(content: bytes) -> dict[str, ApiKey]:
    """Reads the content of a key file; raises ValueError or RecursionError where it is not right."""
    top = JsonFields(json.loads(content), names=("keys",)).object("keys")
    keys = {name: _key(name, top) for name in top.names()}
    if len({one.sha256 for one in keys.values()}) < len(keys):
        raise ValueError("two keys are the same.")
    return keys


def _key(name: str, keys: JsonFields) -> ApiKey:
    check_name(name)
    fields = keys.object(name, ApiKey.__dataclass_fields__)
    return ApiKey(
        sha256=_sha256(fields, name),
        created=_time(fields, "created"),
        grants=read_grants(fields, "grants"),
        expires=_time(fields, "expires") if "expires" in fields else None,
        share=read_share(fields.object("share")) if "share" in fields else Share(),
    )


def _sha256(fields: JsonFields, name: str) -> str:
    try:
        sha256 = fields.text("sha256")
    except ValueError:
        sha256 = ""
    if not _DIGEST.fullmatch(sha256):
        # Without the value: somebody may have put the key itself there.
        raise ValueError(f"`keys.{name}.sha256` must be 64 hexadecimal digits in lower case.")
    return sha256


def _time(fields: JsonFields, name: str) -> datetime:
    time = datetime.fromisoformat(fields.text(name))
    if time.tzinfo is None:
        raise ValueError(f"`{name}` must say its time zone (`2027-03-01T00:00:00Z`).")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"`{name}` must lie in the years 1 to 9999 in UTC, too.") from None


def _written(keys: Mapping[str, ApiKey]) -> bytes:
    entries = {
        name: {
            "sha256": one.sha256,
            "created": one.created.isoformat(timespec="seconds"),
            **({"expires": one.expires.isoformat(timespec="seconds")} if one.expires else {}),
            "grants": [
                {"rights": sorted(grant.rights), "collections": list(grant.collections)} for grant in one.grants
            ],
            **({"share": share} if (share := _given(one.share)) else {}),
        }
        for name, one in sorted(keys.items())
    }
    return json.dumps({"keys": entries}, indent=2).encode() + b"\n"


def _given(share: Share) -> dict[str, float]:
    return {name: value for name, value in asdict(share).items() if value is not None}
