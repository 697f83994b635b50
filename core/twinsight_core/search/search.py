"""One search: the graph, what is not in the graph, minus what was removed, under a filter.

1. The filter becomes a mask over the rows.
2. The plan: if few rows are allowed, or the walk would be wide, comparing with all of them is faster, and exact (of
   equal rows beside the graph, one is compared). This is also done under the inner product if many matches are wanted
   or a filter leaves many rows out, and if walks do not lead to the allowed rows (`hubs`) or to what is near the query
   (`anisotropy`).
3. Otherwise the graph is walked, wide enough to find `top_k` under the filter. The result is verified: if it has fewer
   rows than it should, the walk is widened, and in the end the search is exact, so recall never drops unnoticed.
4. Rows that the graph does not hold are scanned exactly, one of each group of equal vectors beside it, and both results
   are merged; a few rows are compared directly.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from twinsight_core.host.cores import on_all_cores
from twinsight_core.index.exact import (
    NOTHING,
    SCATTERED_SHARE,
    ExactView,
    Found,
    all_in_order,
    are_below,
    closest,
)
from twinsight_core.index.hnsw import STEPS_PER_THREAD, HnswIndex, steps
from twinsight_core.items import SearchOptions
from twinsight_core.search.beside import Standing
from twinsight_core.search.generation import Coverage, Generation

# A walk of width w takes as long as comparing with about so many times w vectors: those that lie together are scanned
# (20,000 x 256: 2.8 us for each step of width, 65 ns a vector), those that a filter leaves here and there are gathered
# first (100,000 x 256: 3.6 us and 180 ns).
_ROWS_PER_WIDTH, _SCATTERED_PER_WIDTH = 32, 20
# Under a filter only the closer part of what a walk finds counts: towards its end it misses neighbours.
_TRUSTED_SHARE = 0.5
_WIDEN_BY = 4
# The inner product is no distance, and a graph built by it misses more, the deeper the more: recall@10 of 20,000 x 256
# clustered vectors at width 96 was 0.991, where cosine had 1.000; at 192 it was 0.996. Of 40,000 x 64 with log-normal
# lengths (sigma 0.3 and 0.5) the first 20 were found to 0.996 and 0.994, the first 50 to 0.815 and 0.896, at no
# width to 0.99. Under a filter that 70 % of them met (depth 14) the first 10 were found to 0.998 and 0.993.
_DOT_WIDTHS, _DOT_WIDTHS_DEEP, _DOT_DEPTH = 2, 16, 15
# So few are scored in float64 at once: to choose among them in float32 first takes longer (0.16 ms against 0.04).
_FEW_OUTSIDE = 64
_FEW_PRODUCTS = 4 << 20  # a millisecond
_SCORED_COMPONENTS = 4 << 20  # of float64 at a time


@dataclass(frozen=True)
class Answer:
    """What was found, and among what.

    Attributes:
        view: the rows searched.
        found: for each query the rows and scores, closest first.
    """

    view: ExactView
    found: list[Found]

    def at_least(self, score: float | None) -> Answer:
        """Returns it without what has a lower score; None: all of it."""
        return self if score is None else replace(self, found=[one.at_least(score) for one in self.found])


def search(generation: Generation, queries: np.ndarray, options: SearchOptions, *, ef: int) -> Answer:
    """Returns each query's best matches: at most `top_k`, and fewer only if no more are allowed.

    Args:
        generation: what to search.
        queries: `[n, dimension] float32`, prepared.
        options: what is wanted; `min_score` and what to include are left to the caller.
        ef: width of a walk without a filter.
    """
    graph = generation.graph
    if graph is None or options.exact:
        view = generation.rows.view
        allowed = _allowed(generation, view, options)
        with _cores_for(products=_available(view, allowed) * queries.size):
            return Answer(view, view.nearest(queries, options.top_k, allowed=allowed))
    return _graph_search(generation, graph, queries, options, ef)


def _graph_search(
    generation: Generation, graph: HnswIndex, queries: np.ndarray, options: SearchOptions, ef: int
) -> Answer:
    walked: dict[int, Found] = {}
    with graph.reading() as reader:
        # In this order: what misleads walks is known if it is said to be, what the coverage promises is in the graph
        # already, hubs are in the view, and what is removed from the graph was removed from the view before. An item
        # that is being replaced is then found either as it was or as it is.
        is_surveyed = generation.is_surveyed
        coverage, hubs, anisotropy = generation.coverage, generation.hubs, generation.anisotropy
        view = generation.rows.view
        allowed = _allowed(generation, view, options)
        findable = view.alive if allowed is None else allowed
        available = _available(view, allowed)
        scope = _scope(view, coverage, findable, available, options.top_k)
        # Nearly: a few of the graph's points may be beside it, or removed since.
        share = 1.0 if allowed is None else min(1.0, max(scope.answered, 1) / max(len(graph), 1))
        width = _width(options, ef, share, has_hubs=hubs is not None)
        walkable = is_surveyed and coverage.end > 0 and _worth_walking(view, scope.answered, width)
        if walkable and hubs is not None:
            walkable = not _is_too_deep(options, share) and hubs.lead_to(findable, available)
        pending = list(range(len(queries))) if walkable else []
        if pending and anisotropy is not None:
            with _cores_for(products=anisotropy.sample.size * len(queries)):
                pending = np.flatnonzero(anisotropy.leads_to(queries)).tolist()
        while pending and _worth_walking(view, scope.answered, width):
            asked = queries if len(pending) == len(queries) else queries[pending]
            with _cores_for(walking=steps(len(asked), width)):
                labels = reader.search(asked, width)
            trusted = labels.shape[1] if allowed is None else math.ceil(labels.shape[1] * _TRUSTED_SHARE)
            taken = scope.taken(asked, labels, trusted)
            walked |= {number: found for number, found in zip(pending, taken, strict=True) if found is not None}
            pending = [number for number in pending if number not in walked]
            width *= _WIDEN_BY
    pending = [number for number in range(len(queries)) if number not in walked]
    if walked and scope.scanned:
        numbers = list(walked)
        with _cores_for(products=scope.scanned * queries[numbers].size):
            more = scope.rest(queries[numbers])
        for number, rest in zip(numbers, more, strict=True):
            walked[number] = closest(walked[number], rest, options.top_k)
    if pending:
        with _cores_for(products=(scope.answered + scope.scanned) * queries[pending].size):
            walked.update(zip(pending, scope.every(queries[pending]), strict=True))
    return Answer(view, [walked[number] for number in range(len(queries))])


@dataclass(frozen=True)
class _Scope:
    """What one search may find, and where it has to look for it.

    Attributes:
        view: the rows.
        coverage: which of them the graph answers for.
        allowed: `[count] bool`, the rows that may be found.
        k: how many are wanted.
        beside: `[m] int64`, allowed rows that the graph does not answer for, so few that each query is compared with
            all of them beside what its walk found.
        standing: stand for all of those, where they are more; None where there are few.
        answered: how many allowed rows the graph answers for.
        scanned: how many rows are scanned beside a walk: the tail, and those that stand for others.
    """

    view: ExactView
    coverage: Coverage
    allowed: np.ndarray
    k: int
    beside: np.ndarray
    standing: Standing | None
    answered: int
    scanned: int

    def taken(self, queries: np.ndarray, labels: np.ndarray, trusted: int) -> list[Found | None]:
        """Returns each query's k best of those allowed among `labels: [n, width] int64` and of those beside.

        Returns:
            None where a walk fell short.
        """
        head = self.view.rows_of(labels[:, : self.k])
        if head.shape[1] == self.k and self._all_usable(head):
            return list(self._scored(queries, head))
        needed = min(self.k, self.answered)
        lines: dict[int, np.ndarray] = {}
        for number, line in enumerate(labels):
            rows = self.view.rows_of(line)
            usable = self._usable(rows)
            if np.count_nonzero(usable[:trusted]) >= needed:
                lines[number] = rows[usable][: self.k]
        taken: list[Found | None] = [None] * len(labels)
        for length in {len(line) for line in lines.values()}:  # those of one length together: nearly all are
            numbers = [number for number, line in lines.items() if len(line) == length]
            scored = self._scored(queries[numbers], np.stack([lines[number] for number in numbers]))
            for number, found in zip(numbers, scored, strict=True):
                taken[number] = found
        return taken

    def every(self, queries: np.ndarray) -> list[Found]:
        """Returns each query's k best of all allowed rows, without a walk."""
        if self.standing is None:
            return self.view.nearest(queries, self.k, allowed=self.allowed)
        allowed = self.allowed.copy()
        allowed[self.coverage.outside] = False
        return self._with_standing(self.standing, queries, self.view.nearest(queries, self.k, allowed=allowed))

    def rest(self, queries: np.ndarray) -> list[Found]:
        """Returns each query's k best allowed rows of the tail, and of those that the graph does not answer for."""
        found = [NOTHING] * len(queries)
        if self.coverage.end < len(self.view):
            found = self.view.nearest(queries, self.k, among=slice(self.coverage.end, None), allowed=self.allowed)
        return found if self.standing is None else self._with_standing(self.standing, queries, found)

    def _with_standing(self, standing: Standing, queries: np.ndarray, found: list[Found]) -> list[Found]:
        """Returns each query's k best of what was found for it and of the rows that `standing` stands for."""
        more = self.view.nearest(queries, self.k, among=standing.rows, allowed=self.allowed)
        return [closest(one, standing.expanded(other, self.k), self.k) for one, other in zip(found, more, strict=True)]

    def _all_usable(self, rows: np.ndarray) -> bool:
        """Returns whether `_usable` holds for all, as it mostly does, in less time."""
        return (
            are_below(rows, self.coverage.end)
            and bool(self.allowed[rows].all())
            and (not len(self.coverage.outside) or bool(self.coverage.answered[rows].all()))
        )

    def _usable(self, rows: np.ndarray) -> np.ndarray:
        # Rows from the coverage's end on may have come into the graph meanwhile; they are scanned.
        known = (rows >= 0) & (rows < self.coverage.end)
        safe = np.where(known, rows, 0)
        usable: np.ndarray = known & self.allowed[safe]
        return usable & self.coverage.answered[safe] if len(self.coverage.outside) else usable

    def _scored(self, queries: np.ndarray, rows: np.ndarray) -> list[Found]:
        """Returns the k best of `rows: [n, m] int64`, and of those beside, with their scores, closest first."""
        if len(self.beside):
            walked, rows = rows, np.empty((len(rows), rows.shape[1] + len(self.beside)), np.int64)
            rows[:, : walked.shape[1]], rows[:, walked.shape[1] :] = walked, self.beside
        found: list[Found] = []
        step = max(1, _SCORED_COMPONENTS // max(1, rows.shape[1] * queries.shape[1]))
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            scores = self.view.score(queries[first : first + step], part)
            found += all_in_order(part, scores, self.k)
        return found


def _scope(view: ExactView, coverage: Coverage, allowed: np.ndarray, available: int, k: int) -> _Scope:
    beside = coverage.outside
    tail = int(np.count_nonzero(allowed[coverage.end :]))
    if len(beside) > _FEW_OUTSIDE:
        standing = coverage.beside.standing(allowed)
        if standing.count > _FEW_OUTSIDE:
            answered, scanned = available - tail - standing.count, tail + len(standing.rows)
            return _Scope(view, coverage, allowed, k, beside[:0], standing, answered, scanned)
    if len(beside):
        beside = beside[allowed[beside]]
    return _Scope(view, coverage, allowed, k, beside, None, available - tail - len(beside), tail)


def _cores_for(*, walking: int = 0, products: int = 0) -> AbstractContextManager[None]:
    """Lets the calling thread have all cores for what takes a millisecond or more outside the interpreter.

    Args:
        walking: `steps` of all walks.
        products: of components.
    """
    return on_all_cores() if walking > STEPS_PER_THREAD or products > _FEW_PRODUCTS else nullcontext()


def _available(view: ExactView, allowed: np.ndarray | None) -> int:
    return view.live if allowed is None else int(np.count_nonzero(allowed))


def _allowed(generation: Generation, view: ExactView, options: SearchOptions) -> np.ndarray | None:
    return None if options.filter is None else generation.rows.mask(options.filter, view)


def _width(options: SearchOptions, ef: int, share: float, *, has_hubs: bool) -> int:
    """Returns how wide to walk so that `top_k` allowed rows are nearly always in the trusted part.

    Args:
        options: what is wanted.
        ef: width without a filter.
        share: of the rows that the graph answers for, how much is allowed; above 0, at most 1.
        has_hubs: whether the graph has hubs.
    """
    width = options.ef or max(ef, math.ceil(options.top_k / _TRUSTED_SHARE))
    if has_hubs and not options.ef:
        width = max(_DOT_WIDTHS * width, math.ceil(_DOT_WIDTHS_DEEP * _depth(options, share)))
    if options.filter is None:
        return width
    # A filter by chance leaves about as many as are wanted, more or less by their square root. With no more than that
    # every other walk falls short, and is followed by what takes longer than to have walked wider.
    wanted = (options.top_k + 2 * math.sqrt(options.top_k)) / _TRUSTED_SHARE
    return max(width, math.ceil(wanted / share))


def _depth(options: SearchOptions, share: float) -> float:
    """Returns the place that the last one wanted has among all, if a filter leaves a share of them by chance."""
    return options.top_k / share


def _is_too_deep(options: SearchOptions, share: float) -> bool:
    """Returns whether a walk would miss much, and no width was asked for."""
    return not options.ef and _depth(options, share) > _DOT_DEPTH


def _worth_walking(view: ExactView, answered: int, width: int) -> bool:
    """Returns whether a walk is faster than comparing with the allowed rows that the graph answers for."""
    scattered = answered < len(view) * SCATTERED_SHARE
    return answered > width * (_SCATTERED_PER_WIDTH if scattered else _ROWS_PER_WIDTH)
