"""Rows that are compared beside a graph, in groups of equal vectors.

A picture that a thousand items have (a placeholder, say) is a thousand equal vectors, of which a graph holds a few. One
row of each group is compared, and stands for all: equal vectors have equal scores.
"""

from __future__ import annotations

import secrets
from functools import cached_property
from hashlib import blake2b

import numpy as np

from twinsight_core.index.exact import Found, in_order

# Of a group so many times as many members as are wanted are looked at first: mostly all of them are allowed.
_LOOKED_AT = 4
_ROW_BITS = 32


class Groups:
    """Numbers vectors: equal ones have the same number, and no others. One thread at a time.

    By digests of 128 bits under a secret key, so that nobody can make two vectors with one digest.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)
        self._numbers: dict[bytes, int] = {}

    def numbers(self, vectors: np.ndarray) -> np.ndarray:
        """Returns the numbers `[n] int64` of vectors `[n, dimension] float32`, prepared."""
        digests = (blake2b(vector.tobytes(), digest_size=16, key=self._key).digest() for vector in vectors)
        return np.fromiter((self._numbers.setdefault(one, len(self._numbers)) for one in digests), np.int64)


class Beside:
    """Rows and their groups; does not change.

    Attributes:
        rows: `[n] int64`, rising, below 2**32.
        groups: `[n] int64`, the numbers of their vectors, from 0, below 2**31; some may be missing.
    """

    def __init__(self, rows: np.ndarray, groups: np.ndarray) -> None:
        """Takes both as they are.

        Args:
            rows: as the attribute.
            groups: the numbers of their vectors.
        """
        self.rows = rows
        self.groups = groups
        self._latest: Standing | None = None

    def joined(self, rows: np.ndarray, groups: np.ndarray) -> Beside:
        """Returns it with further rows, in any order, and their groups."""
        if not len(rows):
            return self
        every, of_each = np.concatenate([self.rows, rows]), np.concatenate([self.groups, groups])
        order = np.argsort(every)
        return Beside(every[order], of_each[order])

    def standing(self, allowed: np.ndarray) -> Standing:
        """Returns the rows that stand for those of `allowed: [count] bool`, kept for the next search of the same."""
        latest = self._latest
        if latest is None or latest.allowed is not allowed:
            latest = self._latest = Standing(self, allowed)
        return latest

    @cached_property
    def members(self) -> Members:
        """The rows of each group."""
        return Members(self.rows, self.groups)


class Members:
    """The rows of each group, found by its number; a number that is missing has none, and counts in the length."""

    def __init__(self, rows: np.ndarray, groups: np.ndarray) -> None:
        # One sort of numbers: the first search after rows have come in waits for this.
        keys = np.sort(groups << _ROW_BITS | rows)
        self._rows = keys & ((1 << _ROW_BITS) - 1)
        self._counts = np.bincount(groups)
        self._ends = np.cumsum(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def are_alone(self, groups: np.ndarray) -> bool:
        """Returns whether each of some groups has one member."""
        return bool((self._counts[groups] == 1).all())

    def of(self, group: int) -> np.ndarray:
        """Returns a group's rows, rising."""
        end = self._ends[group]
        return self._rows[end - self._counts[group] : end]


class Standing:
    """Rows that each stand for the allowed rows of one group.

    Attributes:
        allowed: `[count] bool`, as it was given.
        rows: `[m] int64`, rising: the first allowed one of each group that has any.
        count: how many rows they stand for.
    """

    def __init__(self, beside: Beside, allowed: np.ndarray) -> None:
        # Not `beside` itself, which keeps this: a cycle of a collection that existed when the server began to serve is
        # never freed (`gc.freeze`).
        self._every, self._groups, self._members = beside.rows, beside.groups, beside.members
        self.allowed = allowed
        chosen = allowed[self._every]
        self.count = int(np.count_nonzero(chosen))
        first = np.full(len(self._members), -1, np.int64)
        # The last one that is written to a place stays.
        first[self._groups[chosen][::-1]] = self._every[chosen][::-1]
        self.rows = np.sort(first[first >= 0])

    def expanded(self, found: Found, k: int) -> Found:
        """Returns the k best of all rows that the found ones, closest first, stand for."""
        groups = self._groups[np.searchsorted(self._every, found.rows)]
        if self._members.are_alone(groups):
            return found
        lines: list[np.ndarray] = []
        scores: list[np.ndarray] = []
        count = 0
        for group, score in zip(groups.tolist(), found.scores, strict=True):
            if count >= k and score < scores[-1][0]:
                break
            line = self._first_allowed(self._members.of(group), k)
            lines.append(line)
            scores.append(np.full(len(line), score, np.float32))
            count += len(line)
        return in_order(np.concatenate(lines), np.concatenate(scores), k)

    def _first_allowed(self, rows: np.ndarray, k: int) -> np.ndarray:
        head = rows[: _LOOKED_AT * k]
        usable: np.ndarray = head[self.allowed[head]]
        if len(usable) < k and len(head) < len(rows):
            usable = rows[self.allowed[rows]]
        return usable[:k]


NOTHING_BESIDE = Beside(np.empty(0, np.int64), np.empty(0, np.int64))
