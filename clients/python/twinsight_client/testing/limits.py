"""The rules by which the fake rejects requests: a server's fixed rules, and its limits with default settings.

`tests/clients/refusals.py` lists calls that break these rules; the fake and a real server reject each in the same way.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sized

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import types_pb2
from twinsight_client.testing.conditions import bounds_of
from twinsight_client.testing.pictures import refused

MAX_IMAGES = 256
"""Images or queries in one call; half as many pairs."""
MAX_ITEMS = 1000
"""Items or ids in one call."""
MAX_TOP_K = 1000
MAX_EF = 4096
MAX_PAGE = 1000
MAX_DIMENSION = 4096
MAX_LENGTH = 1e18
"""Length of a vector under the metrics that depend on length."""
MAX_ID_BYTES = 256
MAX_INGEST_ID_BYTES = 128
MAX_NAME_BYTES = 128
"""Bytes of the name of a metadata field."""
MAX_FIELDS = 64
MAX_METADATA_BYTES = 64 * 1024
MAX_DEPTH = 16
"""Levels of a filter."""
MAX_NODES = 256
MAX_VALUES = 1000
MAX_ALL_VALUES = 10_000
"""Values of all `in` conditions of a filter together."""

_COLLECTION_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def check_count(things: Sized, most: int, *, field: str) -> None:
    """Raises InvalidArgument if a call has no entries, or more than `most`."""
    if not 1 <= len(things) <= most:
        raise refused("COUNT_INVALID", field, f"`{field}` has {len(things)} entries; it must have 1 to {most}.")


def check_text(text: str, *, field: str, most_bytes: int, reason: str) -> None:
    """Raises InvalidArgument if an id or a name is empty, too long or contains control characters."""
    if not 1 <= len(text.encode()) <= most_bytes or any(unicodedata.category(one) == "Cc" for one in text):
        message = f"`{field}` must be 1 to {most_bytes} bytes of UTF-8 without control characters."
        raise refused(reason, field, message)


def check_item_id(item_id: str, *, field: str) -> None:
    """Raises InvalidArgument if no item can have that id."""
    check_text(item_id, field=field, most_bytes=MAX_ID_BYTES, reason="ITEM_ID_INVALID")


def check_collection_id(name: str) -> None:
    """Raises InvalidArgument if no collection can have that id."""
    if _COLLECTION_ID.fullmatch(name) is None:
        message = "`id` must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', and not start with '.'."
        raise refused("COLLECTION_ID_INVALID", "collection.id", message)


def check_checkpoint(ingest_id: str, batch: int) -> None:
    """Raises InvalidArgument if a bulk write can't resume after that batch under that name."""
    check_text(ingest_id, field="ingest_id", most_bytes=MAX_INGEST_ID_BYTES, reason="INGEST_ID_INVALID")
    if batch < 1:
        raise refused("BATCH_INVALID", "batch", f"`batch` (={batch}) must be at least 1.")


def check_search(request: collections_pb.SearchRequest) -> None:
    """Raises InvalidArgument if an option of a search is invalid."""
    if not 1 <= request.top_k <= MAX_TOP_K:
        raise refused("TOP_K_INVALID", "top_k", f"`top_k` (={request.top_k}) must be between 1 and {MAX_TOP_K}.")
    if request.HasField("filter"):
        check_filter(request.filter)
    if request.ef and not request.top_k <= request.ef <= MAX_EF:
        message = f"`ef` (={request.ef}) must be `top_k` (={request.top_k}) to {MAX_EF}, or 0."
        raise refused("EF_INVALID", "ef", message)
    if request.HasField("min_score") and math.isnan(request.min_score):
        raise refused("MIN_SCORE_INVALID", "min_score", "`min_score` must not be NaN.")


def check_page(request: collections_pb.ListItemsRequest) -> None:
    """Raises InvalidArgument if the page size or the filter is invalid."""
    if not 0 <= request.page_size <= MAX_PAGE:
        message = f"`page_size` (={request.page_size}) must be between 0 and {MAX_PAGE}."
        raise refused("PAGE_SIZE_INVALID", "page_size", message)
    if request.HasField("filter"):
        check_filter(request.filter)


def check_metadata(metadata: Mapping[str, types_pb2.Value], *, field: str) -> None:
    """Raises InvalidArgument if there are too many fields, they are too large, or a name or value is invalid."""
    if len(metadata) > MAX_FIELDS:
        message = f"`{field}` has {len(metadata)} fields; at most {MAX_FIELDS} are allowed."
        raise refused("METADATA_INVALID", field, message)
    total = 0
    for name, value in metadata.items():
        check_text(name, field=field, most_bytes=MAX_NAME_BYTES, reason="METADATA_INVALID")
        total += len(name.encode()) + _value_bytes(value, field=f"{field}[{name!r}]", reason="METADATA_INVALID")
    if total > MAX_METADATA_BYTES:
        message = f"`{field}` is {total} bytes of names and values; at most {MAX_METADATA_BYTES} are allowed."
        raise refused("METADATA_INVALID", field, message)


def check_filter(condition: types_pb2.Filter, *, field: str = "filter") -> None:
    """Raises InvalidArgument if a filter has an empty part, is too deep or too large, or has a bad name or value."""
    pending = [(condition, field, 1)]
    nodes = values = 0
    while pending:
        node, path, depth = pending.pop()
        nodes += 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            message = f"`{field}` must have at most {MAX_NODES} nodes in {MAX_DEPTH} levels."
            raise refused("FILTER_INVALID", path, message)
        match node.WhichOneof("kind"):
            case "all_of" | "any_of" as kind:
                inner = f"{path}.{kind}.filters"
                members = node.all_of.filters if kind == "all_of" else node.any_of.filters
                if not members:
                    raise refused("FILTER_INVALID", inner, f"`{inner}` must have at least one filter.")
                inside = [(one, f"{inner}[{place}]", depth + 1) for place, one in enumerate(members)]
                pending += reversed(inside)  # the first is looked at next
            case "not":
                pending.append((getattr(node, "not"), f"{path}.not", depth + 1))
            case "condition":
                _check_condition(node.condition, f"{path}.condition")
                values += len(getattr(node.condition, "in").values)
                if values > MAX_ALL_VALUES:
                    raise refused("FILTER_INVALID", f"{path}.condition.in", f"`{field}` has too many values.")
            case None:
                raise refused("FILTER_INVALID", path, f"`{path}` is empty.")


def _check_condition(condition: types_pb2.Condition, path: str) -> None:
    check_text(condition.field, field=f"{path}.field", most_bytes=MAX_NAME_BYTES, reason="FILTER_INVALID")
    match condition.WhichOneof("test"):
        case "equals":
            _value_bytes(condition.equals, field=f"{path}.equals", reason="FILTER_INVALID")
        case "in":
            values = getattr(condition, "in").values
            if not 1 <= len(values) <= MAX_VALUES:
                message = f"`{path}.in` has {len(values)} values; it must have 1 to {MAX_VALUES}."
                raise refused("FILTER_INVALID", f"{path}.in", message)
            for place, one in enumerate(values):
                _value_bytes(one, field=f"{path}.in.values[{place}]", reason="FILTER_INVALID")
        case "range":
            bounds = bounds_of(condition.range).values()
            if not bounds or any(math.isnan(bound) for bound in bounds):
                message = f"`{path}.range` must have at least one bound, and none NaN."
                raise refused("FILTER_INVALID", f"{path}.range", message)
        case None:
            raise refused("FILTER_INVALID", path, f"`{path}` has no test.")


def _value_bytes(value: types_pb2.Value, *, field: str, reason: str) -> int:
    """Returns the bytes of a value as counted for metadata; raises InvalidArgument if no field can hold it."""
    match value.WhichOneof("kind"):
        case "string_value":
            return len(value.string_value.encode())
        case "string_list":
            return sum(8 + len(one.encode()) for one in value.string_list.values)
        case "float_value":
            if not math.isfinite(value.float_value):
                raise refused(reason, field, f"`{field}` (={value.float_value}) must be finite.")
            return 8
        case "integer_value":
            return 8
        case "bool_value":
            return 1
    raise refused("VALUE_MISSING", field, f"`{field}` has no value.")
