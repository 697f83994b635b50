"""The exact index: every vector is compared. It is the reference for the others.

The scan only preselects: in float32, or in an int8 copy (`int8_copy`), with bounds on its error. float64 decides, so
that results are the same to the last bit: ordered by score as float32, and equal scores in the order of writing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twinsight_core.index.base import Metric, scores
from twinsight_core.index.bounded import Bounded
from twinsight_core.index.int8_copy import Int8Copy, Int8View
from twinsight_core.index.products import multiply, parts, row_count
from twinsight_core.index.row_memory import IN_MEMORY, RowMemory, RowPlaces

if TYPE_CHECKING:
    from twinsight_core.index.device import Chosen, DeviceCopy  # brings JAX along

_UNIT_ROUNDOFF = 2.0**-24  # of float32
_LEAST_NORMAL = 2.0**-126  # of float32
_BLOCK_BYTES = 64 << 20  # of vectors, and of scores, in one step of a scan
_PART_BYTES = 1 << 20  # of vectors that are read from a file
SCATTERED_SHARE = 0.25
"""Of rows: where fewer are allowed they are gathered, which costs about as much as scanning four times as many."""
# So many that the int8 copy left are scored in float64 at once: to choose among more in float32 first is faster.
_FEW_LEFT = 1024


@dataclass(frozen=True, slots=True)
class Found:
    """The nearest rows of one query, closest first; equal scores in the order of rows.

    Attributes:
        rows: `[k] int64`.
        scores: `[k] float32`, higher is closer.
    """

    rows: np.ndarray
    scores: np.ndarray

    def at_least(self, score: float) -> Found:
        """Returns what has no lower score."""
        count = int(np.count_nonzero(self.scores >= np.float64(score)))  # as float32 it might be a little less
        return Found(self.rows[:count], self.scores[:count])


NOTHING = Found(np.empty(0, np.int64), np.empty(0, np.float32))


def closest(one: Found, other: Found, k: int) -> Found:
    """Returns the k best of both, which have no row in common."""
    if not len(other.rows):
        return one
    return in_order(np.concatenate([one.rows, other.rows]), np.concatenate([one.scores, other.scores]), k)


def in_order(rows: np.ndarray, scores: np.ndarray, k: int) -> Found:
    """Returns rows and their scores closest first, equal scores in the order of rows: the first k."""
    return all_in_order(rows[None], scores[None], k)[0]


def all_in_order(rows: np.ndarray, scores: np.ndarray, k: int) -> list[Found]:
    """Returns `in_order` of each line of `rows: [n, m] int64` and `scores: [n, m] float32`."""
    # As a graph finds them, most lines are in order; sorting would hand the interpreter to other threads.
    falling: list[bool] = np.all(scores[:, :-1] > scores[:, 1:], axis=1).tolist()
    return [
        Found(line[:k], score[:k]) if is_falling else _sorted(line, score, k)
        for line, score, is_falling in zip(rows, scores, falling, strict=True)
    ]


def _sorted(rows: np.ndarray, scores: np.ndarray, k: int) -> Found:
    order = np.lexsort((rows, -scores))[:k]
    return Found(rows[order], scores[order])


@dataclass(frozen=True, slots=True)
class ExactView:
    """The index as it was at one moment. Later writes don't change it.

    Attributes:
        metric: the metric.
        labels: `[count] int64`, rising.
        vectors: `[count, dimension] float32`, prepared.
        square_norms: `[count] float32`; empty under cosine, where all are 1.
        alive: `[count] bool`, false where the row was removed.
        live: how many rows are alive.
        longest: no vector's Euclidean norm is greater.
        memory: where the vectors are taken from.
        int8: a copy that is scanned instead of the vectors; None without one.
        device: a copy on an accelerator, which is asked first; None without one.
    """

    metric: Metric
    labels: np.ndarray
    vectors: np.ndarray
    square_norms: np.ndarray
    alive: np.ndarray
    live: int
    longest: float
    memory: RowMemory
    int8: Int8View | None = None
    device: DeviceCopy | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def rows_of(self, labels: np.ndarray) -> np.ndarray:
        """Returns the rows of labels, `int64` of the same shape; -1 where there is none. Removed rows count."""
        count = len(self.labels)
        if not count:
            return np.full(labels.shape, -1, np.int64)
        first = self.labels[0]
        if self.labels[-1] - first == count - 1:  # no label is missing between
            rows = labels - first
            return rows if are_below(rows, count) else np.where((rows >= 0) & (rows < count), rows, -1)
        rows = np.searchsorted(self.labels, labels)
        np.minimum(rows, count - 1, out=rows)
        return np.where(self.labels[rows] == labels, rows, -1)

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns `[..., dimension] float32`, the vectors of rows; without mapping more of their file than needed."""
        return self.memory.look_at(self.vectors, rows)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        among: slice | np.ndarray = slice(None),
        allowed: np.ndarray | None = None,
    ) -> list[Found]:
        """Returns each query's k nearest live rows, exactly: float32 preselects with an error margin, float64 decides.

        Args:
            queries: `[n, dimension] float32`, prepared.
            k: how many rows, at least 1; fewer are returned if fewer are allowed.
            among: rows to look at, as a slice or rising numbers `[m] int64`.
            allowed: `[count] bool`, rows that may be found, all of them alive; None: every live row.
        """
        if not len(queries):
            return []
        if kept := allowed is None or allowed is self.alive:
            allowed = self.alive if self.live < len(self.labels) else None
        if self.device is not None and isinstance(among, slice) and among == slice(None):
            free = self.live if allowed is None else int(np.count_nonzero(allowed))
            if free >= self.device.least_rows and (
                chosen := self.device.choose(
                    queries, k, count=len(self), allowed=allowed, longest=self.longest, kept=kept
                )
            ):
                return self._nearest_of(chosen, queries, k, allowed)
        return self._nearest_here(queries, k, among, allowed)

    def _nearest_of(self, chosen: Chosen, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> list[Found]:
        """Decides among the rows that the device chose and those that it does not have.

        If it may have missed one of the nearest, all rows are scanned.
        """
        tail = self._nearest_here(queries, k, slice(chosen.count, None), allowed) if chosen.count < len(self) else None
        found: list[Found] = []
        unsure: list[int] = []
        for number, query in enumerate(queries):
            there = chosen.rows[number] >= 0
            rows, coarse = chosen.rows[number][there], chosen.coarse[number][there]
            slack = float(chosen.slack[number])
            # All rows that reach the k-th less the slack are here if the best of those that are not does not.
            kth = float(np.partition(coarse, len(coarse) - k)[len(coarse) - k]) if len(coarse) >= k else -np.inf
            if chosen.beyond[number] > -np.inf and chosen.beyond[number] >= kth - slack:
                unsure.append(number)
                found.append(NOTHING)
                continue
            here = self._decided(query, k, Bounded.of(rows, coarse, None), slack, on_device=True)
            found.append(here if tail is None else closest(here, tail[number], k))
        if unsure:
            for number, one in zip(unsure, self._nearest_here(queries[unsure], k, slice(None), allowed), strict=True):
                found[number] = one
        return found

    def _nearest_here(
        self, queries: np.ndarray, k: int, among: slice | np.ndarray, allowed: np.ndarray | None
    ) -> list[Found]:
        slack, doubts = self._slack(queries), self._doubts(queries)
        picked: list[list[Bounded]] = [[] for _ in queries]
        for rows, hidden in self._blocks(among, allowed, len(queries)):
            coarse = self._coarse(queries, rows, scanned=self.int8)
            if hidden is not None:
                coarse[:, hidden] = -np.inf
            numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            lost = None if self.int8 is None else self.int8.lost[rows]
            for number, line in enumerate(coarse):
                bounded = Bounded.of(numbers, line, None if lost is None else lost * doubts[number])
                picked[number].append(bounded.contenders(k, slack[number]))
        return [
            self._decided(query, k, Bounded.joined(picked[number]), slack[number]) if picked[number] else NOTHING
            for number, query in enumerate(queries)
        ]

    def score(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Returns the scores `[n, k] float32` of `rows: [n, k] int64`, k for each of the queries."""
        return scores(queries, self.read(rows), self.metric)

    def _blocks(
        self, among: slice | np.ndarray, allowed: np.ndarray | None, queries: int
    ) -> Iterator[tuple[slice | np.ndarray, np.ndarray | None]]:
        """Yields rows in steps of bounded memory, each with a mask of those that must not be found, or None."""
        step = max(1, _BLOCK_BYTES // (4 * max(self.vectors.shape[1], queries)))
        if isinstance(among, np.ndarray):
            rows = among if allowed is None else among[allowed[among]]
            yield from ((rows[first : first + step], None) for first in range(0, len(rows), step))
            return
        start, stop, _ = among.indices(len(self.labels))
        for first in range(start, stop, step):
            block = slice(first, min(first + step, stop))
            if allowed is None:
                yield block, None
                continue
            mask = allowed[block]
            chosen = int(np.count_nonzero(mask))
            if chosen == len(mask):
                yield block, None
            elif chosen < len(mask) * SCATTERED_SHARE:
                if chosen:
                    yield np.flatnonzero(mask) + first, None
            else:
                yield block, ~mask

    def _coarse(self, queries: np.ndarray, rows: slice | np.ndarray, *, scanned: Int8View | None) -> np.ndarray:
        """Returns `[n, m] float32` that rise with the scores of what is scanned: the int8 copy, or the vectors if None.

        Their error is at most half of `_slack`; what the copy lost (`_doubts`) comes on top.
        """
        products = self._products(queries, rows) if scanned is None else scanned.products(queries, rows)
        if self.metric is Metric.EUCLIDEAN:
            # Minus the squared distance, but for a term that depends on the query alone.
            products *= 2
            products -= self.square_norms[rows]
        return products

    def _products(self, queries: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
        products = np.empty((len(queries), row_count(rows)), np.float32)
        whole = max(1, products.shape[1])
        step = max(1, _PART_BYTES // (4 * queries.shape[1])) if self.memory.in_file else whole
        for part, place in parts(rows, step):
            multiply(queries, self.read(part), products[:, place])
        return products

    def _slack(self, queries: np.ndarray) -> np.ndarray:
        """Returns `[n] float64`: twice the error that `_coarse` can have, and what equal scores can differ by.

        Source: N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 3.5: the error of an inner
        product of d terms in any order is at most d u / (1 - d u) |x| |y|. The 16 further terms cover the rest. Where
        numbers get smaller than the normal ones, each may be off by the least of those (taken for zero, at worst).
        """
        return self._slack_of(_lengths(queries), np.float64(self.longest))

    def _slack_of(self, lengths: np.ndarray, norms: np.ndarray | np.float64) -> np.ndarray:
        """Returns `_slack` for queries of some lengths and rows of some norms, float64 of the shape that both have."""
        magnitude = norms * lengths
        if self.metric is Metric.EUCLIDEAN:
            magnitude = 2 * magnitude + norms**2
        terms = self.vectors.shape[1] + 16
        relative: float = terms * _UNIT_ROUNDOFF
        slack = 2.0 * relative / (1.0 - relative) * magnitude
        if self.metric is Metric.EUCLIDEAN:
            # Distances that float32 rounds alike: their squares, unlike `magnitude`, have the query's own in them.
            slack += 8 * _UNIT_ROUNDOFF * (norms + lengths) ** 2
        twice: np.ndarray = slack + 8 * terms * _LEAST_NORMAL * (1.0 + norms + lengths)
        return twice

    def _by_own_norms(self, query: np.ndarray, k: int, left: Bounded) -> Bounded:
        """Returns which of some rows may be among the k best, each with the slack of its own norm.

        `_slack` is that of the longest vector: where one is much longer than the others, it tells few of them apart.
        """
        # Rounded to float32, where the least square is 2**-149.
        norms = np.sqrt(self.square_norms[left.rows].astype(np.float64)) * (1.0 + 2.0**-20) + 2.0**-74
        own = self._slack_of(_lengths(query[None]), norms)
        return Bounded(left.rows, left.lowest - own, left.highest + own).contenders(k, 0.0)

    def _doubts(self, queries: np.ndarray) -> np.ndarray:
        """Returns `[n] float32`: how much of a row's `lost` its coarse value may be off by, either way."""
        relative = 1.0 + 2.0 * (queries.shape[1] + 16) * _UNIT_ROUNDOFF
        doubts = _lengths(queries) * (2.0 * relative if self.metric is Metric.EUCLIDEAN else relative)
        rounded: np.ndarray = doubts.astype(np.float32)
        return rounded

    def _decided(self, query: np.ndarray, k: int, left: Bounded, slack: float, *, on_device: bool = False) -> Found:
        left = left.contenders(k, slack)
        # A device computes in bfloat16, of which a row's own norm says nothing here.
        if not on_device and self.metric is not Metric.COSINE and len(left.rows) > max(_FEW_LEFT, 2 * k):
            left = self._by_own_norms(query, k, left)
        if self.int8 is not None and len(left.rows) > max(_FEW_LEFT, 2 * k):
            rows = np.sort(left.rows)
            left = Bounded.of(rows, self._coarse(query[None], rows, scanned=None)[0], None).contenders(k, slack)
        step = max(1, _BLOCK_BYTES // (8 * len(query)))
        if self.memory.in_file:
            step = max(1, _PART_BYTES // (4 * len(query)))
        lines = [left.rows[None, first : first + step] for first in range(0, len(left.rows), step)]
        exact = np.concatenate([self.score(query[None], line)[0] for line in lines]) if lines else NOTHING.scores
        return in_order(left.rows, exact, k)


class ExactIndex:
    """Vectors in the order of their labels in one array. One thread writes at a time; searches never wait."""

    def __init__(
        self,
        dimension: int,
        metric: Metric,
        *,
        capacity: int = 1024,
        device: DeviceCopy | None = None,
        places: RowPlaces = IN_MEMORY,
    ) -> None:
        """Makes an empty index.

        Args:
            dimension: of the vectors.
            metric: the metric.
            capacity: rows that there is room for at first.
            device: keeps a copy on an accelerator.
            places: where the vectors lie, and in which form they are scanned.
        """
        self.metric = metric
        self._device = device
        self._writing = threading.Lock()
        self._labels = np.empty(capacity, np.int64)
        self._memory = RowMemory(dimension, capacity, folder=places.vectors)
        # Where the vectors are in memory after all, for want of room on the disk, they are scanned themselves.
        copied = places.scanned == "int8" and self._memory.in_file
        self._int8 = Int8Copy(dimension, capacity, folder=places.scanned_in) if copied else None
        self._square_norms = np.empty(0 if metric is Metric.COSINE else capacity, np.float32)
        self._alive = np.ones(capacity, np.bool_)
        self.view = self._seen(count=0, live=0, longest=0.0)

    def __len__(self) -> int:
        return self.view.live

    def add(self, labels: np.ndarray, vectors: np.ndarray) -> None:
        """Adds vectors under labels that are higher than any before."""
        self.apply(labels, vectors, removed=np.empty(0, np.int64))

    def remove(self, labels: np.ndarray) -> None:
        """Removes vectors from every later search. Labels that the index does not have are ignored."""
        self.apply(np.empty(0, np.int64), np.empty((0, self._memory.rows.shape[1]), np.float32), removed=labels)

    def search(self, queries: np.ndarray, width: int) -> np.ndarray:
        """Returns each query's nearest labels, `[n, min(width, len(self))] int64`, closest first.

        Equal vectors come in the order of their labels.
        """
        view = self.view
        if not view.live:
            return np.empty((len(queries), 0), np.int64)
        return np.stack([view.labels[found.rows] for found in view.nearest(queries, width)])

    def apply(self, labels: np.ndarray, vectors: np.ndarray, *, removed: np.ndarray) -> None:
        """Adds and removes in one step: a search sees all of it or nothing.

        Args:
            labels: `[n] int64`, rising, higher than any before.
            vectors: `[n, dimension] float32`, prepared.
            removed: `[m] int64`, labels to remove; those that the index does not hold are ignored.
        """
        with self._writing:
            view = self.view
            count, total = len(view), len(view) + len(labels)
            if total > len(self._labels):
                self._grow(max(total, len(self._labels) * 3 // 2))
            # Rows past `count` are in no view yet, so that writing them disturbs nobody.
            self._labels[count:total] = labels
            self._memory.write(count, vectors)
            if self._int8 is not None:
                self._int8.write(count, vectors)
            self._alive[count:total] = True
            longest = view.longest
            if len(labels):
                squares = np.vecdot(vectors, vectors, dtype=np.float64)
                longest = max(longest, float(np.sqrt(squares.max())))
                if self.metric is not Metric.COSINE:
                    self._square_norms[count:total] = squares
            live = view.live + len(labels)
            if len(removed):
                rows = view.rows_of(np.unique(removed))
                rows = rows[rows >= 0]
                live -= int(np.count_nonzero(view.alive[rows]))
                # Views share `alive`: a new one is made when a row dies.
                self._alive = self._alive.copy()
                self._alive[rows] = False
            if self._device is not None:
                self._device.extend(self._memory.rows[:total], self._square_norms[:total])
            self.view = self._seen(count=total, live=live, longest=longest)

    def release(self) -> None:
        """Releases the memory of data in files, until it is read again."""
        self._memory.release()
        if self._int8 is not None:
            self._int8.release()

    def _seen(self, *, count: int, live: int, longest: float) -> ExactView:
        return ExactView(
            self.metric,
            self._labels[:count],
            self._memory.rows[:count],
            self._square_norms[:count],
            self._alive[:count],
            live,
            longest,
            self._memory,
            None if self._int8 is None else self._int8.seen(count),
            self._device,
        )

    def _grow(self, capacity: int) -> None:
        self._labels = _grown(self._labels, capacity)
        self._memory.grow(capacity)
        if not self._memory.in_file:
            self._int8 = None
        elif self._int8 is not None:
            self._int8.grow(capacity)
        if self.metric is not Metric.COSINE:
            self._square_norms = _grown(self._square_norms, capacity)
        self._alive = _grown(self._alive, capacity)


def are_below(rows: np.ndarray, end: int) -> bool:
    """Returns whether all of `rows`, int64, are 0 to `end` - 1."""
    # As unsigned numbers those below 0 are beyond any row: one look is enough.
    return not rows.size or int(rows.view(np.uint64).max()) < end


def _grown(array: np.ndarray, capacity: int) -> np.ndarray:
    larger = np.empty((capacity, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def _lengths(queries: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.sqrt(np.vecdot(queries, queries, dtype=np.float64))
    return lengths
