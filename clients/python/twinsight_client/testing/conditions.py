"""Evaluates the contract's filters on an item's metadata in memory."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from twinsight.v1 import types_pb2


def holds(condition: types_pb2.Filter, metadata: Mapping[str, types_pb2.Value]) -> bool:
    """Returns whether `metadata` match the filter; an empty filter, such as an unset field, matches everything."""
    match condition.WhichOneof("kind"):
        case "all_of":
            return all(holds(one, metadata) for one in condition.all_of.filters)
        case "any_of":
            return any(holds(one, metadata) for one in condition.any_of.filters)
        case "not":
            return not holds(getattr(condition, "not"), metadata)
        case "condition":
            return _meets(condition.condition, metadata)
    return True


def _meets(condition: types_pb2.Condition, metadata: Mapping[str, types_pb2.Value]) -> bool:
    test = condition.WhichOneof("test")
    if test == "exists":
        return (condition.field in metadata) == condition.exists
    if condition.field not in metadata:
        return False
    value = metadata[condition.field]
    if test == "equals":
        return _equal(value, condition.equals)
    if test == "in":
        return any(_equal(value, one) for one in getattr(condition, "in").values)
    number = _number(value)
    return number is not None and _within(number, condition.range)


def _equal(value: types_pb2.Value, wanted: types_pb2.Value) -> bool:
    number, wanted_number = _number(value), _number(wanted)
    if number is not None and wanted_number is not None:
        return number == wanted_number
    if value.WhichOneof("kind") == "string_list" and wanted.WhichOneof("kind") == "string_value":
        return wanted.string_value in value.string_list.values
    return value == wanted


def _number(value: types_pb2.Value) -> float | int | None:
    match value.WhichOneof("kind"):
        case "integer_value":
            return value.integer_value
        case "float_value":
            return value.float_value
    return None


def bounds_of(message: types_pb2.Range) -> dict[str, float]:
    """Returns the bounds that apply: an integer bound overrides the double, which precedes it in the fields."""
    return {one.name.removesuffix("_integer"): bound for one, bound in message.ListFields()}


def _within(number: float, between: types_pb2.Range) -> bool:
    tests = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
    return all(tests[name](number, bound) for name, bound in bounds_of(between).items())
