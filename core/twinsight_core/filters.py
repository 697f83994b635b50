"""Conditions on metadata, as values; `twinsight_core.search.columns` evaluates them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from twinsight_core.errors import InvalidInput
from twinsight_core.metadata import INTEGER_RANGE, MAX_NAME_BYTES, MetadataValue, check_text, check_value

MAX_DEPTH = 16
MAX_NODES = 256
MAX_VALUES = 1000
MAX_ALL_VALUES = 10_000
"""Over all conditions: reading and checking each value takes microseconds, whatever the items are."""


@dataclass(frozen=True, slots=True)
class AllOf:
    """Holds when every member holds; at least one member."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Holds when any member holds; at least one member."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Holds when the inner filter does not, and so also when the field is missing."""

    filter: Filter


@dataclass(frozen=True, slots=True)
class Equals:
    """Holds when the field has this value, of the same type; integers and floats compare as numbers.

    A list of strings equals a string that it contains, and a list that is the same.
    """

    field: str
    value: MetadataValue


@dataclass(frozen=True, slots=True)
class In:
    """Holds when the field equals any of these; 1 to 1000 values."""

    field: str
    values: tuple[MetadataValue, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Holds when the field is a number within bounds; at least one bound, none NaN; integers of 64 bits, exactly."""

    field: str
    gt: int | float | None = None
    gte: int | float | None = None
    lt: int | float | None = None
    lte: int | float | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """Holds when the item has the field or, with `exists` false, when it does not."""

    field: str
    exists: bool = True


Condition = Equals | In | Range | Exists
Filter = AllOf | AnyOf | Not | Condition


def check_filter(filter_: Filter, *, field: str = "filter") -> None:
    """Checks the rules of a filter.

    Args:
        filter_: the filter.
        field: path of the filter as the caller wrote it, for the error.

    Raises:
        InvalidInput: reason FILTER_INVALID; over 16 levels, 256 nodes or 10,000 values, an empty list, a bad name,
            value or bound.
    """
    nodes = values = 0
    pending: list[tuple[Filter, str, int]] = [(filter_, field, 1)]
    while pending:
        node, path, depth = pending.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            raise _invalid(f"`{field}` is nested over {MAX_DEPTH} levels deep.", field)
        if nodes > MAX_NODES:
            raise _invalid(f"`{field}` has over {MAX_NODES} nodes.", field)
        if isinstance(node, AllOf | AnyOf):
            inner = f"{path}.{'all_of' if isinstance(node, AllOf) else 'any_of'}.filters"
            if not node.filters:
                raise _invalid(f"`{inner}` must have at least one filter.", inner)
            pending += [(one, f"{inner}[{i}]", depth + 1) for i, one in enumerate(node.filters)]
        elif isinstance(node, Not):
            pending.append((node.filter, f"{path}.not", depth + 1))
        else:
            values += len(node.values) if isinstance(node, In) else 1
            if values > MAX_ALL_VALUES:
                raise _invalid(f"`{field}` has over {MAX_ALL_VALUES:,} values.", field)
            _check_condition(node, f"{path}.condition")


def _check_condition(condition: Condition, path: str) -> None:
    name = f"{path}.field"
    check_text(condition.field, field=name, what=f"`{name}`", max_bytes=MAX_NAME_BYTES, reason="FILTER_INVALID")
    if isinstance(condition, Equals):
        check_value(condition.value, field=f"{path}.equals", reason="FILTER_INVALID")
    elif isinstance(condition, In):
        if not 1 <= len(condition.values) <= MAX_VALUES:
            count = len(condition.values)
            raise _invalid(f"`{path}.in` has {count} values; it must have 1 to {MAX_VALUES}.", f"{path}.in")
        for i, value in enumerate(condition.values):
            check_value(value, field=f"{path}.in.values[{i}]", reason="FILTER_INVALID")
    elif isinstance(condition, Range):
        bounds = [one for one in (condition.gt, condition.gte, condition.lt, condition.lte) if one is not None]
        if not bounds:
            raise _invalid(f"`{path}.range` must have at least one bound.", f"{path}.range")
        if any(math.isnan(one) for one in bounds if isinstance(one, float)):
            raise _invalid(f"`{path}.range` must not have NaN as a bound.", f"{path}.range")
        if any(one not in INTEGER_RANGE for one in bounds if isinstance(one, int)):
            raise _invalid(f"`{path}.range` must have integers of at most 64 bits as bounds.", f"{path}.range")


def _invalid(message: str, field: str) -> InvalidInput:
    return InvalidInput(message, reason="FILTER_INVALID", field=field)
