"""The right that each method of the contract needs. A method that is not listed can't be called."""

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
        on_collection: whether it must hold on the collection that the request names; otherwise any grant will do.
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
        "Search": _SEARCH,  # with `include_vectors` also `VECTORS`
        "UpsertItems": _WRITE,
        "IngestItems": _WRITE,
        "DeleteItems": _WRITE,
        "CreateCollection": _ADMIN,
        "DeleteCollection": _ADMIN,
    }
)
"""By method name, which is unique across services."""

VECTORS = _READ
"""What a Search needs in addition to return vectors."""
