"""Plain JSON objects, read field by field: exactly the expected fields, each of its type."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field
from types import MappingProxyType
from typing import TypeVar

Choice = TypeVar("Choice", bound=str)

OPTIONAL: Mapping[str, bool] = MappingProxyType({"optional": True})
"""`metadata` of a dataclass field that an object may lack."""


def unique_members(members: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Makes an object for `json.loads(..., object_pairs_hook=unique_members)`.

    Raises:
        ValueError: two members have one name, of which json itself would keep the last.
    """
    found = dict(members)
    if len(found) < len(members):
        names = [name for name, _ in members]
        raise ValueError(f"`{next(name for name in names if names.count(name) > 1)}` is there twice.")
    return found


class JsonFields:
    """One JSON object that must have certain fields and no others.

    Args:
        values: the parsed value.
        names: the fields that it must have, by name or as `__dataclass_fields__`, where those marked with OPTIONAL may
            be missing; None accepts any.
        path: the object's place (`preprocessing`), for the messages; empty at the top.

    Raises:
        ValueError: it is not an object, a field is missing or unknown, or a name is not Unicode text.
    """

    def __init__(self, values: object, *, names: Iterable[str] | None = None, path: str = "") -> None:
        self._path = path
        if not isinstance(values, dict):
            raise ValueError(f"`{path}` must be an object." if path else "it must be an object.")
        for name in values if not all(map(str.isascii, values)) else ():
            _check_unicode(name, f"the name of a field of `{path}`" if path else "the name of a field")
        self._values: dict[str, object] = values
        if names is not None:
            self.check_names(names)

    def check_names(self, names: Iterable[str]) -> None:
        """Checks that there are exactly these fields; `names` as for the constructor.

        Raises:
            ValueError: a field is missing or unknown.
        """
        wanted = set(names)
        for name in sorted(wanted.symmetric_difference(self._values) - _optional(names)):
            raise ValueError(f"{self._quoted(name)} is {'missing' if name in wanted else 'unknown'}.")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def names(self) -> tuple[str, ...]:
        """Returns the names of the fields, in their order."""
        return tuple(self._values)

    def object(self, name: str, names: Iterable[str] | None = None) -> JsonFields:
        """Returns the object in a field; `names` as for the constructor."""
        return JsonFields(self._values[name], names=names, path=self._place(name))

    def optional_object(self, name: str, names: Iterable[str] | None = None) -> JsonFields | None:
        """Returns the object in a field, or None for null."""
        return None if self._values[name] is None else self.object(name, names)

    def objects(self, name: str, names: Iterable[str] | None = None) -> tuple[JsonFields, ...]:
        """Returns a list of objects; `names` as for the constructor, for each of them."""
        value = self._values[name]
        if not isinstance(value, list):
            raise ValueError(f"{self._shown(name)} must be a list of objects.")
        place = self._place(name)
        return tuple(JsonFields(one, names=names, path=f"{place}[{number}]") for number, one in enumerate(value))

    def text(self, name: str) -> str:
        """Returns a string of Unicode text."""
        value = self._values[name]
        if not isinstance(value, str):
            raise ValueError(f"{self._shown(name)} must be a string.")
        _check_unicode(value, self._quoted(name))
        return value

    def choice(self, name: str, choices: tuple[Choice, ...]) -> Choice:
        """Returns one of `choices`."""
        for choice in choices:
            if self._values.get(name) == choice:
                return choice
        raise ValueError(f"{self._shown(name)} must be one of {', '.join(f'`{one}`' for one in choices)}.")

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns a list of strings of Unicode text."""
        value = self._values[name]
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"{self._shown(name)} must be a list of strings.")
        for number, one in enumerate(value):
            _check_unicode(one, self._quoted(f"{name}[{number}]"))
        return tuple(value)

    def integer(self, name: str, *, least: int, most: int) -> int:
        """Returns an integer in `least`..`most`."""
        value = self._values[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{self._shown(name)} must be an integer in {least}..{most}.")
        return value

    def number(self, name: str) -> float:
        """Returns a finite number, possibly written as an integer."""
        value = self._values[name]
        if not isinstance(value, bool) and isinstance(value, int | float):
            try:
                number = float(value)
            except OverflowError:  # JSON's integers are unbounded
                number = math.inf
            if math.isfinite(number):
                return number
        raise ValueError(f"{self._shown(name)} must be a finite number.")

    def flag(self, name: str) -> bool:
        """Returns a boolean, possibly written as 0 or 1."""
        value = self._values[name]
        if isinstance(value, bool | int | float) and value in {0, 1}:
            return bool(value)
        raise ValueError(f"{self._shown(name)} must be true or false, or 1 or 0.")

    def integers(self, name: str, *, least: int, most: int) -> tuple[int, ...]:
        """Returns a list of integers in `least`..`most`."""
        return tuple(one.integer("value", least=least, most=most) for one in self._each(name))

    def number_list(self, name: str) -> tuple[float, ...]:
        """Returns a list of finite numbers."""
        return tuple(one.number("value") for one in self._each(name))

    def number_lists(self, name: str) -> tuple[tuple[float, ...], ...]:
        """Returns a list of lists of finite numbers."""
        return tuple(one.number_list("value") for one in self._each(name))

    def _each(self, name: str) -> list[JsonFields]:
        values = self._values[name]
        if not isinstance(values, list):
            raise ValueError(f"{self._shown(name)} must be a list.")
        return [JsonFields({"value": one}, path=f"{self._place(name)}[{n}]") for n, one in enumerate(values)]

    def numbers(self) -> dict[str, float]:
        """Returns all fields, each a finite number."""
        return {name: self.number(name) for name in self._values}

    def _place(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def _quoted(self, name: str) -> str:
        return f"`{self._place(name)}`"

    def _shown(self, name: str) -> str:
        return f"{self._quoted(name)} (={self._values.get(name)!r:.80})"


def _check_unicode(text: str, place: str) -> None:
    """Rejects unpaired surrogates, which JSON can spell but UTF-8 can't encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place} (={text!r:.80}) must be Unicode text without unpaired surrogates.") from None


def _optional(names: Iterable[str]) -> set[str]:
    """Returns the names marked with OPTIONAL; none unless `names` is `__dataclass_fields__`."""
    if not isinstance(names, Mapping):
        return set()
    return {name for name, field in names.items() if isinstance(field, Field) and field.metadata.get("optional")}
