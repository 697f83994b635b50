"""Callers, and what they may do.

A grant gives rights on the collections whose ids match its patterns. Rights are independent: `write` does not include
`read`. Only `read` includes another, `search`, which finds items but does not return their vectors. `search` in any
grant, even one without collections, is the right to run the models.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from twinsight_core.json_fields import JsonFields

Right: TypeAlias = Literal["search", "read", "write", "admin"]
RIGHTS: Final[tuple[Right, ...]] = ("search", "read", "write", "admin")

_PATTERN = re.compile(r"[A-Za-z0-9._*?\[\]!-]{1,128}")
"""The characters of collection ids, and the wildcards `*`, `?` and `[...]`."""

_MOST_GRANTS = 64
_MOST_PATTERNS = 64


MOST = 10**9
"""Largest rate and largest count of a share."""


class Unproven(Exception):
    """Why a credential is not valid: only for the log and the audit log, never for the sender."""


@dataclass(frozen=True)
class Grant:
    """Rights on some collections.

    Attributes:
        rights: what is allowed.
        collections: patterns of ids (`photos*`); empty: no collection, only what needs none.

    Raises:
        ValueError: there is no right, an unknown one, or a pattern that no id can match.
    """

    rights: frozenset[Right]
    collections: tuple[str, ...]
    _matches: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.rights or not self.rights <= set(RIGHTS):
            raise ValueError(f"`rights` must be some of {', '.join(f'`{one}`' for one in RIGHTS)}.")
        for pattern in self.collections:
            if not _PATTERN.fullmatch(pattern):
                raise ValueError(
                    f"`collections` (={pattern!r:.140}) must be collection ids; `*`, `?` and `[...]` are wildcards."
                )
        if len(self.collections) > _MOST_PATTERNS:
            raise ValueError(
                f"`collections` has {len(self.collections)} entries; at most {_MOST_PATTERNS} are allowed."
            )
        # `(?!)` matches nothing.
        compiled = re.compile("|".join(map(fnmatch.translate, self.collections)) or "(?!)")
        object.__setattr__(self, "_matches", compiled)

    def has(self, right: Right) -> bool:
        """Whether it gives a right, on any collections."""
        return right in self.rights or (right == "search" and "read" in self.rights)

    def holds(self, right: Right, collection: str) -> bool:
        """Whether it gives a right on a collection."""
        return self.has(right) and self._matches.match(collection) is not None

    @classmethod
    def from_fields(cls, fields: JsonFields) -> Grant:
        """Reads `{"rights": [...], "collections": [...]}`.

        Raises:
            ValueError: it has another form.
        """
        fields.check_names(("rights", "collections"))
        named = set(fields.texts("rights"))
        rights: frozenset[Right] = frozenset(one for one in RIGHTS if one in named)
        if len(rights) != len(named):
            raise ValueError(f"`rights` must be some of {', '.join(f'`{one}`' for one in RIGHTS)}.")
        return cls(rights, fields.texts("collections"))


def read_grants(fields: JsonFields, name: str) -> tuple[Grant, ...]:
    """Reads a list of grants.

    Raises:
        ValueError: it is not one.
    """
    objects = fields.objects(name)
    if not 1 <= len(objects) <= _MOST_GRANTS:
        raise ValueError(f"`{name}` must have 1 to {_MOST_GRANTS} entries.")
    return tuple(Grant.from_fields(one) for one in objects)


@dataclass(frozen=True)
class Share:
    """How much of the server one caller may use; 0: no limit; None: the server's setting.

    Attributes:
        calls_per_s: calls, and messages of streams.
        items_per_s: images, queries, items and ids in them.
        max_calls: calls processed at once.
        max_streams: streams open at once.
        max_collections: with this many collections that it may `admin`, whoever created them, it can't create another.
    """

    calls_per_s: float | None = None
    items_per_s: float | None = None
    max_calls: int | None = None
    max_streams: int | None = None
    max_collections: int | None = None

    def over(self, default: Share) -> Share:
        """Returns this share, with missing values taken from another."""
        return Share(
            default.calls_per_s if self.calls_per_s is None else self.calls_per_s,
            default.items_per_s if self.items_per_s is None else self.items_per_s,
            default.max_calls if self.max_calls is None else self.max_calls,
            default.max_streams if self.max_streams is None else self.max_streams,
            default.max_collections if self.max_collections is None else self.max_collections,
        )


def read_share(fields: JsonFields) -> Share:
    """Reads `{"calls_per_s": 20, "max_calls": 4}`, in which each value is optional.

    Raises:
        ValueError: it has another form.
    """
    fields.check_names({one for one in Share.__dataclass_fields__ if one in fields})

    def rate(name: str) -> float | None:
        if name not in fields:
            return None
        value = fields.number(name)
        if not 0 <= value <= MOST:
            raise ValueError(f"`{name}` (={value}) must be between 0 and {MOST}.")
        return value

    def count(name: str) -> int | None:
        return fields.integer(name, least=0, most=MOST) if name in fields else None

    counts = (count(name) for name in ("max_calls", "max_streams", "max_collections"))
    return Share(rate("calls_per_s"), rate("items_per_s"), *counts)


@dataclass(frozen=True)
class Principal:
    """A caller.

    Attributes:
        kind: how it is authenticated: by an API key, by a JWT, or "anyone" if the server requires no token; empty: it
            is not.
        name: the key's name, or the JWT's subject.
        grants: what it may do.
        share: how much it may use.
    """

    kind: Literal["key", "jwt", "anyone", ""]
    name: str
    grants: tuple[Grant, ...]
    share: Share = field(default_factory=Share)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind

    def may(self, right: Right, collection: str) -> bool:
        """Whether it has a right on a collection."""
        return any(grant.holds(right, collection) for grant in self.grants)

    def may_somewhere(self, right: Right) -> bool:
        """Whether it has a right in any grant."""
        return any(grant.has(right) for grant in self.grants)

    def may_know(self, collection: str) -> bool:
        """Whether it may know that a collection exists."""
        return self.may("search", collection)


ANYONE = Principal("anyone", "", (Grant(frozenset(RIGHTS), ("*",)),))
"""The caller of a server that requires no token."""

NOBODY = Principal("", "", ())
"""The caller of a call that is not, or not yet, authenticated."""
