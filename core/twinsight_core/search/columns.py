"""Metadata in columns, so that a filter becomes a mask over all rows without a call per row.

Each field has its distinct values, numbered, and the numbers of its rows. A condition is evaluated once per distinct
value, or looked up, and then applied to the rows by NumPy. A row's own metadata is read back the other way round, as it
was written, including the type of a number.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from twinsight_core.filters import AllOf, AnyOf, Condition, Exists, Filter, In, Not, Range
from twinsight_core.metadata import Metadata, MetadataValue

_EXACT_IN_FLOAT64 = 2**53
_INT64 = np.iinfo(np.int64)
_Compare = Callable[[Any, Any], Any]  # of `operator`, for numbers and arrays alike
_FEW_VALUES = 4
_KINDS = (str, bool, int, float, tuple)  # bool before int, which it is
_Key = tuple[type, MetadataValue]


class Columns:
    """The metadata of rows that are appended in order. One thread appends while others read and filter."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}

    @property
    def field_count(self) -> int:
        """How many different fields the rows have."""
        return len(self._columns)

    def append(self, first_row: int, metadata: Sequence[Metadata]) -> None:
        """Adds the metadata of rows `first_row` and up."""
        entries: dict[str, list[tuple[int, MetadataValue]]] = {}
        for row, fields in enumerate(metadata, first_row):
            for name, value in fields.items():
                entries.setdefault(name, []).append((row, value))
        for name, values in entries.items():
            column = self._columns.get(name)
            if column is None:
                column = self._columns.setdefault(name, _Column())
            column.append(values)

    def mask(self, filter_: Filter, count: int) -> np.ndarray:
        """Returns which of the first `count` rows meet the filter, `[count] bool`."""
        if isinstance(filter_, AllOf):
            return reduce(operator.iand, (self.mask(one, count) for one in filter_.filters))
        if isinstance(filter_, AnyOf):
            return reduce(operator.ior, (self.mask(one, count) for one in filter_.filters))
        if isinstance(filter_, Not):
            return ~self.mask(filter_.filter, count)
        mask = np.zeros(count, np.bool_)
        column = self._columns.get(filter_.field)
        if column is not None:
            column.mark(filter_, mask)
        if isinstance(filter_, Exists) and not filter_.exists:
            np.logical_not(mask, out=mask)
        return mask

    def metadata(self, rows: np.ndarray) -> list[Metadata]:
        """Returns the metadata of each of `rows: [n] int64`, rising, as appended except for the order of the fields."""
        gathered: list[dict[str, MetadataValue]] = [{} for _ in range(len(rows))]
        for name, column in list(self._columns.items()):
            for place, value in column.values_at(rows):
                gathered[place][name] = value
        return list(gathered)

    def compacted(self, alive: np.ndarray) -> Columns:
        """Returns the columns of the live rows, renumbered without gaps.

        Args:
            alive: `[count] bool`; rows past it are left out.
        """
        numbers = np.cumsum(alive) - 1
        compact = Columns()
        for name, column in list(self._columns.items()):
            kept = column.compacted(alive, numbers)
            if kept is not None:
                compact._columns[name] = kept
        return compact


class _Column:
    """One field: `entries` are rows and codes, `[n] int32` each; a code numbers a distinct value."""

    def __init__(self) -> None:
        self._rows = np.empty(16, np.int32)
        self._codes = np.empty(16, np.int32)
        # Replaced as one, so that a reader never sees rows without codes; the values of the codes are there before.
        self.entries = (self._rows[:0], self._codes[:0])
        self._values: list[MetadataValue] = []
        self._code_of: dict[_Key, int] = {}
        self._numbers = np.empty(16, np.float64)  # by code; NaN where the value is no number
        # Codes and values of the integers that float64 does not hold, as times in nanoseconds are; replaced as one.
        self._wide = (np.empty(0, np.int32), np.empty(0, np.int64))
        self._wide_codes, self._wide_values = np.empty(16, np.int32), np.empty(16, np.int64)
        self._lists_with: dict[str, list[int]] = {}  # codes of the lists that hold a string

    def append(self, values: Sequence[tuple[int, MetadataValue]]) -> None:
        count = len(self.entries[0])
        total = count + len(values)
        if total > len(self._rows):
            capacity = max(total, len(self._rows) * 3 // 2)
            self._rows = _grown(self._rows, capacity)
            self._codes = _grown(self._codes, capacity)
        self._rows[count:total] = [row for row, _ in values]
        self._codes[count:total] = [self._code(value) for _, value in values]
        self.entries = (self._rows[:total], self._codes[:total])

    def mark(self, condition: Condition, mask: np.ndarray) -> None:
        """Sets `mask: [count] bool`, all false, where a row meets a condition; for `Exists` where it has the field."""
        rows, codes = self.entries
        if len(rows) and rows[-1] >= len(mask):
            end = int(np.searchsorted(rows, len(mask)))
            rows, codes = rows[:end], codes[:end]
        if not len(rows):
            return
        if isinstance(condition, Exists):
            mask[rows] = True
            return
        if isinstance(condition, Range):
            hits = self._in_range(condition)[codes]
        else:
            wanted = self._equal(condition.values if isinstance(condition, In) else (condition.value,))
            hits = np.zeros(len(codes), np.bool_)
            if len(wanted) <= _FEW_VALUES:
                for code in wanted:
                    hits |= codes == code
            else:
                table = np.zeros(len(self._values), np.bool_)
                table[list(wanted)] = True
                hits = table[codes]
        if _is_gapless(rows):
            mask[: len(rows)] = hits
        else:
            mask[rows[hits]] = True

    def values_at(self, wanted: np.ndarray) -> list[tuple[int, MetadataValue]]:
        """Returns the values of rows that have the field, each with its row's place in `wanted: [n] int64`, rising."""
        rows, codes = self.entries
        if not len(rows) or not len(wanted):
            return []
        last = len(rows) - 1
        if _is_gapless(rows) and wanted[-1] <= last:  # as it mostly is
            return list(enumerate(self._values[code] for code in codes[wanted].tolist()))
        if len(wanted) > len(rows):
            found = np.minimum(np.searchsorted(wanted, rows), len(wanted) - 1)
            hits = np.flatnonzero(wanted[found] == rows)
            places = found[hits]
        else:
            found = np.minimum(np.searchsorted(rows, wanted.astype(rows.dtype)), last)
            places = np.flatnonzero(rows[found] == wanted)
            hits = found[places]
        values = [self._values[code] for code in codes[hits].tolist()]
        return list(zip(places.tolist(), values, strict=True))

    def compacted(self, alive: np.ndarray, numbers: np.ndarray) -> _Column | None:
        rows, codes = self.entries
        end = int(np.searchsorted(rows, len(alive)))
        rows, codes = rows[:end], codes[:end]
        kept = alive[rows]
        if not kept.any():
            return None
        column = _Column()
        used, inverse = np.unique(codes[kept], return_inverse=True)
        for code in used.tolist():
            column._code(self._values[code])
        column._rows = numbers[rows[kept]].astype(np.int32)
        column._codes = inverse.astype(np.int32)
        column.entries = (column._rows, column._codes)
        return column

    def _code(self, value: MetadataValue) -> int:
        key = _key(value)
        code = self._code_of.get(key)
        if code is not None:
            return code
        code = len(self._values)
        if code == len(self._numbers):
            self._numbers = _grown(self._numbers, code * 2)
        self._numbers[code] = value if _is_number(value) else np.nan
        # Before any look-up has the code, since readers size their tables by the values.
        self._values.append(value)
        if isinstance(value, int) and abs(value) > _EXACT_IN_FLOAT64:
            self._add_wide(code, value)
        if isinstance(value, tuple):
            for one in set(value):
                self._lists_with.setdefault(one, []).append(code)
        self._code_of[key] = code
        return code

    def _add_wide(self, code: int, value: int) -> None:
        count = len(self._wide[0])
        if count == len(self._wide_codes):
            self._wide_codes = _grown(self._wide_codes, count * 2)
            self._wide_values = _grown(self._wide_values, count * 2)
        self._wide_codes[count], self._wide_values[count] = code, value
        self._wide = (self._wide_codes[: count + 1], self._wide_values[: count + 1])

    def _equal(self, values: Iterable[MetadataValue]) -> set[int]:
        codes: set[int] = set()
        for value in values:
            codes.update(code for key in _equal_keys(value) if (code := self._code_of.get(key)) is not None)
            if isinstance(value, str):
                codes.update(self._lists_with.get(value, ()))
        return codes

    def _in_range(self, bounds: Range) -> np.ndarray:
        """Returns by code whether the value lies within the bounds, `[codes] bool`."""
        count = len(self._values)
        numbers = self._numbers[:count]
        tests = [
            (compare, bound)
            for compare, bound in (
                (operator.gt, bounds.gt),
                (operator.ge, bounds.gte),
                (operator.lt, bounds.lt),
                (operator.le, bounds.lte),
            )
            if bound is not None
        ]
        # NaN, which stands for what is no number, meets no bound.
        within = np.ones(count, np.bool_)
        for test in tests:
            compare, bound = _of_floats(*test)
            within &= np.asarray(compare(numbers, bound))
        codes, integers = self._wide
        seen = int(np.searchsorted(codes, count))  # codes rise
        codes, integers = codes[:seen], integers[:seen]
        within[codes] = True
        for test in tests:
            compare, bound = _of_integers(*test)
            within[codes] &= np.asarray(compare(integers, bound))
        return within


def _of_floats(compare: _Compare, bound: float) -> tuple[_Compare, float]:
    """Returns the test that float64 numbers pass which pass `compare` with `bound`, an integer perhaps; exactly."""
    near = float(bound)
    if near == bound:
        return compare, near
    # No float64 number lies between the bound and the one nearest to it.
    if compare in {operator.lt, operator.le}:
        return (operator.le if near < bound else operator.lt), near
    return (operator.ge if near > bound else operator.gt), near


def _of_integers(compare: _Compare, bound: float) -> tuple[_Compare, int]:
    """Returns the test that integers of 64 bits pass which pass `compare` with `bound`, a float perhaps; exactly."""
    if math.isinf(bound):
        bound = math.copysign(2.0**64, bound)
    # v > 1.5 and v <= 1.5 are v > 1 and v <= 1; v >= 1.5 and v < 1.5 are v >= 2 and v < 2.
    whole = math.floor(bound) if compare in {operator.gt, operator.le} else math.ceil(bound)
    if whole > _INT64.max:
        return (operator.le if compare in {operator.lt, operator.le} else operator.gt), _INT64.max
    if whole < _INT64.min:
        return (operator.ge if compare in {operator.gt, operator.ge} else operator.lt), _INT64.min
    return compare, whole


def _is_number(value: MetadataValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_gapless(rows: np.ndarray) -> bool:
    """Returns whether all rows up to the last of `rows: [n] int32`, rising and not empty, are among them."""
    return bool(rows[-1] == len(rows) - 1)


def _key(value: MetadataValue) -> _Key:
    """Returns a key that two values share exactly if they were written alike: 1, 1.0 and True were not."""
    if isinstance(value, float) and value == 0:
        return (float, str(value))  # -0.0 is equal, but written otherwise
    kind: type = type(value)
    if kind not in _KINDS:  # what is more special (an enumeration, numpy's float) counts as what it is one of
        kind = next(one for one in _KINDS if isinstance(value, one))
    return (kind, value)


def _equal_keys(value: MetadataValue) -> tuple[_Key, ...]:
    """Returns the keys of all values that equal one: 1 and 1.0 do, and True does not."""
    if not _is_number(value):
        return (_key(value),)
    if value == 0:
        return ((int, 0), _key(0.0), _key(-0.0))
    return ((int, value), (float, value))


def _grown(array: np.ndarray, capacity: int) -> np.ndarray:
    larger = np.empty(capacity, array.dtype)
    larger[: len(array)] = array
    return larger
