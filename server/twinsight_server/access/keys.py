"""The file of API keys: JSON, created by `twinsight keys`, and can be edited by hand.

    {"keys": {"phone": {
        "sha256": "9f86d0...", "created": "2026-03-01T12:00:00Z", "expires": "2027-03-01T00:00:00Z",
        "grants": [{"rights": ["read", "write"], "collections": ["photos*"]}],
        "share": {"calls_per_s": 20, "items_per_s": 200, "max_calls": 4, "max_streams": 2, "max_collections": 10}}}}

`expires`, `share` and each of its values are optional.

Only digests of keys are stored. A plain SHA-256 is enough: a key is 256 random bits, which nobody can guess, so a slow
salted hash, as passwords need, would only cost time in every call. A key is found by looking up its digest. The timing
of that can reveal something about digests only, and nobody can construct keys whose digests share a given prefix, so
there is no attack byte by byte.
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
from twinsight_core.json_fields import OPTIONAL, JsonFields, unique_members
from twinsight_server.access.principals import Grant, Principal, Share, Unproven, read_grants, read_share

PREFIX = "tws_"
"""Prefix of every key: scanners find leaked keys by it, and the server distinguishes them from JWTs."""

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ApiKey:
    """A key as stored in the file.

    Attributes:
        sha256: hexadecimal digest of the key.
        created: when it was created.
        grants: what its holder may do.
        expires: when it becomes invalid; None: never.
        share: how much its holder may use.
    """

    sha256: str = field(repr=False)
    created: datetime
    grants: tuple[Grant, ...]
    expires: datetime | None = field(default=None, metadata=OPTIONAL)
    share: Share = field(default_factory=Share, metadata=OPTIONAL)


class KeyRing:
    """All keys of a file, by digest."""

    def __init__(self, keys: Mapping[str, ApiKey]) -> None:
        self._known = {
            one.sha256: (Principal("key", name, one.grants, one.share), one.expires) for name, one in keys.items()
        }

    def principal(self, key: str, now: datetime) -> Principal:
        """Returns the caller that a key belongs to.

        Raises:
            Unproven: the key is unknown, or has expired.
        """
        principal, expires = self._known.get(digest(key), (None, None))
        if principal is None:
            raise Unproven("no such key")
        if expires is not None and now >= expires:
            raise Unproven(f"{principal} expired at {expires.isoformat(timespec='seconds')}")
        return principal


def digest(key: str) -> str:
    """Returns the digest of a key, which the file stores."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key() -> str:
    """Returns a new key: 256 random bits as text."""
    return PREFIX + secrets.token_urlsafe(32)


def check_name(name: str) -> None:
    """Checks the name of a key.

    Raises:
        ValueError: the name is invalid.
    """
    if name.startswith(PREFIX):
        raise ValueError(f"A key's name must not begin with `{PREFIX}`, the prefix of keys.")
    if not _NAME.fullmatch(name):
        raise ValueError(f"A key's name (={name!r:.80}) must be 1 to 64 letters, digits, '.', '_', '@' or '-'.")


def read_keys(content: bytes, *, path: Path) -> dict[str, ApiKey]:
    """Reads the content of a key file.

    Raises:
        StartupError: it is invalid; the message says where, and contains no part of a digest.
    """
    try:
        return _parse(content)
    except (ValueError, RecursionError) as error:
        raise StartupError(f"{path}: not a valid file of keys: {error}", reason="KEY_FILE_INVALID") from None


@contextmanager
def changing(path: Path) -> Iterator[dict[str, ApiKey]]:
    """Yields the keys of a file to be changed, and writes them when the block ends without an error.

    Concurrent changes wait for one another. The new file is on disk before it replaces the old one, and keeps its
    owner, group and mode. If the path is a symbolic link, its target is written.

    Raises:
        StartupError: the file is invalid.
        ValueError: the changed keys are invalid; the file is unchanged.
        OSError: it can't be read or written, or its owner or group can't be kept.
    """
    with rewriting(path) as file:
        keys = read_keys(file.read_bytes(), path=path) if file.exists() else {}
        yield keys
        content = _serialise(keys)
        _parse(content)
        # Durably: a revoked key must not come back after a power failure.
        rewrite_whole(file, content)


def _parse(content: bytes) -> dict[str, ApiKey]:
    """Reads the content of a key file; raises ValueError or RecursionError if it is invalid."""
    top = JsonFields(json.loads(content, object_pairs_hook=unique_members), names=("keys",)).object("keys")
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
        # Without the value: it may be the key itself, entered by mistake.
        raise ValueError(f"`keys.{name}.sha256` must be 64 hexadecimal digits in lower case.")
    return sha256


def _time(fields: JsonFields, name: str) -> datetime:
    time = datetime.fromisoformat(fields.text(name))
    if time.tzinfo is None:
        raise ValueError(f"`{name}` must have a time zone (`2027-03-01T00:00:00Z`).")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"`{name}` must be in the years 1 to 9999 in UTC.") from None


def _serialise(keys: Mapping[str, ApiKey]) -> bytes:
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
