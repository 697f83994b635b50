"""Conditions on metadata, built in Python or from JSON.

In Python, combine conditions on fields with `&`, `|` and `~`:

    (field("year") >= 2000) & field("brand").is_in(["acme", "zenith"]) & ~field("sold").exists()

In JSON (and on the command line), an object whose members must all hold:

    {"brand": "acme"}                               equals; a list of strings equals each string in it
    {"brand": ["acme", "zenith"]}                   equals any of these; the same as {"brand": {"in": [...]}}
    {"year": {"gte": 2000, "lt": 2010}}             bounds: gt, gte, lt, lte
    {"sold": {"exists": false}}                     the item has no such field
    {"any_of": [{"year": 1999}, {"brand": "acme"}]} at least one must hold; all_of: every one
    {"not": {"brand": "acme"}}                      the inner filter must not hold

A field that is itself called all_of, any_of or not can be tested only in Python. An item without the field meets no
condition but `exists: false`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from twinsight.v1 import types_pb2
from twinsight_client.errors import FieldViolation, InvalidArgument
from twinsight_client.metadata import plain_scalar, value_message
from twinsight_client.unicode_text import check_text

Scalar: TypeAlias = str | int | float | bool
_BOUNDS = ("gt", "gte", "lt", "lte")
_TESTS = ("equals", "in", "exists", *_BOUNDS)


class Filter:
    """A condition on an item's metadata, from `field` or `filter_from_json`; combine several with `&`, `|` and `~`."""

    def __init__(self, message: types_pb2.Filter) -> None:
        self._message = message

    @property
    def message(self) -> types_pb2.Filter:
        """The condition as a protobuf message."""
        return self._message

    def __and__(self, other: Filter) -> Filter:
        return _join("all_of", self, other)

    def __or__(self, other: Filter) -> Filter:
        return _join("any_of", self, other)

    def __invert__(self) -> Filter:
        message = types_pb2.Filter()
        getattr(message, "not").CopyFrom(self._message)  # a keyword in Python, a field's name in the message
        return Filter(message)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self._message == other._message

    __hash__ = None  # type: ignore[assignment]  # wraps a mutable message

    def __bool__(self) -> bool:
        raise TypeError(
            "A filter has no truth value: combine filters with &, | and ~, not with and, or, not or a < b < c."
        )

    def __repr__(self) -> str:
        return f"Filter({' '.join(str(self._message).split())})"


class Field:
    """A metadata field to compare, from `field`."""

    def __init__(self, name: str) -> None:
        self._name = check_text(name, field="filter")

    def equals(self, value: Scalar) -> Filter:
        """Holds if the field has this value; a list of strings equals each string in it."""
        return self._condition(types_pb2.Condition(equals=value_message(value, name=self._name, field="filter")))

    def is_in(self, values: Iterable[Scalar]) -> Filter:
        """Holds if the field equals any of `values`.

        Raises:
            InvalidArgument: `values` is empty, or one has a type that metadata can't hold.
            TypeError: a lone string, which would be split into characters.
        """
        if isinstance(values, str | bytes):
            raise TypeError(f"`is_in` on `{self._name}` takes a list, even for a single value.")
        messages = [value_message(value, name=self._name, field="filter") for value in values]
        if not messages:
            raise _invalid(f"`is_in` on `{self._name}` must name at least one value.")
        condition = types_pb2.Condition()
        getattr(condition, "in").values.extend(messages)  # a keyword in Python, a field's name in the message
        return self._condition(condition)

    def between(self, low: float, high: float) -> Filter:
        """Holds if low <= the field <= high."""
        return self._range({"gte": low, "lte": high})

    def exists(self) -> Filter:
        """Holds if the item has the field."""
        return self._condition(types_pb2.Condition(exists=True))

    def is_missing(self) -> Filter:
        """Holds if the item does not have the field."""
        return self._condition(types_pb2.Condition(exists=False))

    # A filter is what a reader of `field("brand") == "acme"` expects, not Python's True or False.
    def __eq__(self, value: Scalar) -> Filter:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.equals(value)

    def __ne__(self, value: Scalar) -> Filter:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return ~self.equals(value)

    def __gt__(self, bound: float) -> Filter:
        return self._range({"gt": bound})

    def __ge__(self, bound: float) -> Filter:
        return self._range({"gte": bound})

    def __lt__(self, bound: float) -> Filter:
        return self._range({"lt": bound})

    def __le__(self, bound: float) -> Filter:
        return self._range({"lte": bound})

    __hash__ = None  # type: ignore[assignment]  # == does not compare

    def _range(self, bounds: Mapping[str, object]) -> Filter:
        between = types_pb2.Range()
        for word, given in bounds.items():
            bound = plain_scalar(given)
            if isinstance(bound, bool) or not isinstance(bound, int | float):
                raise _invalid(f"`{word}` on `{self._name}` ({bound!r}) must be a number.")
            try:
                near = float(bound)
                setattr(between, word, near)
                # A float is exact only for integers up to 2^53; a larger one may round to its neighbour. A server that
                # does not know the integer bounds uses the rounded one.
                if isinstance(bound, int) and near != bound:
                    setattr(between, f"{word}_integer", bound)
            except (OverflowError, ValueError) as error:
                raise _invalid(f"`{word}` on `{self._name}` must fit in 64 bits.") from error
        return self._condition(types_pb2.Condition(range=between))

    def _condition(self, condition: types_pb2.Condition) -> Filter:
        condition.field = self._name
        return Filter(types_pb2.Filter(condition=condition))


def filter_message(where: object) -> types_pb2.Filter | None:
    """Returns a condition as a protobuf message; None if there is none.

    Raises:
        TypeError: it is not a Filter, but for example a mapping, which `filter_from_json` reads.
    """
    if where is None:
        return None
    if not isinstance(where, Filter):
        raise TypeError(
            f"`where` must be a Filter, such as `field('year') >= 2000` or `filter_from_json(text)`, not "
            f"{type(where).__name__}."
        )
    return where.message


def field(name: str) -> Field:
    """Returns the metadata field `name` for comparisons: `field("year") >= 2000`."""
    return Field(name)


def filter_from_json(document: str | Mapping[str, object]) -> Filter:
    """Returns the filter that a JSON object describes; see the module's docstring for the form.

    Args:
        document: the object, or its text.

    Raises:
        InvalidArgument: not JSON, not of that form, or nested too deeply.
    """
    try:
        return _object(_parse_json(document) if isinstance(document, str) else document)
    except RecursionError as error:
        raise _invalid("The filter is nested too deeply.") from error


def _parse_json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_reject_duplicates)
    except ValueError as error:  # not only JSON errors: Python rejects integers of thousands of digits
        raise _invalid(f"The filter is not JSON: {error}.") from error


def _reject_duplicates(members: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Returns an object of the document; json itself would keep only the last of two members of the same name."""
    found: dict[str, object] = {}
    for name, value in members:
        if name in found:
            raise _invalid(f"The filter has `{name}` twice in one object; combine them with all_of.")
        found[name] = value
    return found


def _object(document: object) -> Filter:
    if not isinstance(document, Mapping):
        raise _invalid(f"A filter must be a JSON object, not {json.dumps(document, default=str)}.")
    if not document:
        raise _invalid("A filter must name at least one field.")
    return _all([_member(str(name), value) for name, value in document.items()])


def _member(name: str, value: object) -> Filter:
    if name in {"all_of", "any_of"}:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise _invalid(f"`{name}` must be a list of at least one filter.")
        return _join(name, *(_object(one) for one in value))
    if name == "not":
        return ~_object(value)
    if isinstance(value, Mapping):
        return _tests(Field(name), name, value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Field(name).is_in(_scalar(name, one) for one in value)
    return Field(name).equals(_scalar(name, value))


def _tests(tested: Field, name: str, tests: Mapping[object, object]) -> Filter:
    unknown = [str(word) for word in tests if word not in _TESTS]
    if unknown or not tests:
        raise _invalid(f"`{name}` takes the tests {', '.join(_TESTS)}; got {', '.join(unknown) or 'none'}.")
    parts: list[Filter] = []
    bounds = {str(word): bound for word, bound in tests.items() if word in _BOUNDS}
    if bounds:
        parts.append(tested._range(bounds))
    if "equals" in tests:
        parts.append(tested.equals(_scalar(name, tests["equals"])))
    if "in" in tests:
        values = tests["in"]
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise _invalid(f"`in` on `{name}` must be a list.")
        parts.append(tested.is_in(_scalar(name, one) for one in values))
    if "exists" in tests:
        if not isinstance(tests["exists"], bool):
            raise _invalid(f"`exists` on `{name}` must be true or false.")
        parts.append(tested.exists() if tests["exists"] else tested.is_missing())
    return _all(parts)


def _scalar(name: str, value: object) -> Scalar:
    if isinstance(value, str | int | float):
        return value
    raise _invalid(f"`{name}` must be compared with a string, a number or true/false, not {json.dumps(value)}.")


def _all(parts: Sequence[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else _join("all_of", *parts)


def _join(word: str, *parts: Filter) -> Filter:
    """Returns all or any of `parts`; members of the same kind move up one level, so that chains of & stay flat."""
    members: list[types_pb2.Filter] = []
    for part in parts:
        inner = part.message
        if inner.WhichOneof("kind") == word:
            members.extend(inner.all_of.filters if word == "all_of" else inner.any_of.filters)
        else:
            members.append(inner)
    joined = types_pb2.FilterList(filters=members)
    return Filter(types_pb2.Filter(all_of=joined) if word == "all_of" else types_pb2.Filter(any_of=joined))


def _invalid(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="CLIENT_CHECK", violations=[FieldViolation("filter", message)])
