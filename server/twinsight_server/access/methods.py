"""What each method of the contract needs. A method that is not here can't be called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from twinsight_server.access.principals import Right


@dataclass(frozen=True)
class Rule:
    """What a caller needs.

    Attributes:
        right: the right.
        on_collection: on the collection that the request names; otherwise in any grant.
    """

    right: Right
    on_collection: bool


_RUN, _SEARCH, _READ, _WRITE, _ADMIN = (
    Rule("search", on_collection=False),
    Rule("search", on_collection=True),
    Rule("read", on_collection=True),
    Rule("write", on_collection=True),
    Rule("admin", on_collection=True),
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Embed": _RUN,
        "EmbedStream": _RUN,
        "Compare": _RUN,
        "Classify": _RUN,
        "Detect": _RUN,
        "ListModels": _RUN,
        "GetModel": _RUN,
        "ListCollections": _RUN,  # shows those that the caller may search
        "GetCollection": _SEARCH,
        "GetItems": _READ,
        "ListItems": _READ,
        "Search": _SEARCH,  # with their vectors `VECTORS`
        "UpsertItems": _WRITE,
        "IngestItems": _WRITE,
        "DeleteItems": _WRITE,
        "CreateCollection": _ADMIN,
        "DeleteCollection": _ADMIN,
    }
)
"""By the method's name, which no two services share."""

VECTORS = _READ
"""Of a Search for the vectors of what it finds."""
