"""Rows and the graph over them, which are searched together and replaced together."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import HnswIndex
from twinsight_core.search.anisotropy import Anisotropy
from twinsight_core.search.beside import NOTHING_BESIDE, Beside, Groups
from twinsight_core.search.fingerprints import Fingerprints, fingerprints_of
from twinsight_core.search.hubs import Hubs, are_outgrown
from twinsight_core.search.rows import Rows

# Widths of the walks that an audit begins with. In a fifth of a wide walk's time the first finds nine in ten vectors of
# clusters, and a third of random ones; the second finds most of the others. What they find the wide one finds, too: of
# 120,000 vectors, in clusters and not, all.
_GLANCES = (2, 8)
_BURIED_AT_ONCE = 4096  # whose vectors are read at a time


@dataclass(frozen=True)
class Coverage:
    """Which rows the graph answers for.

    Attributes:
        end: rows from here on are not in the graph: the tail, which is scanned exactly.
        beside: rows before `end` that the graph is not asked for and that are scanned too: copies of a vector of which
            a few are alive in the graph, since hundreds of equal points link to one another alone, and a walk finds no
            way out (500 copies among 8,000 vectors took recall from 1.00 to 0.84); and points that no walk finds, those
            far from all others, say, whose neighbours prefer links to their own kind.
    """

    end: int
    beside: Beside

    @property
    def outside(self) -> np.ndarray:
        """`[n] int64`, rising, the rows of `beside`."""
        return self.beside.rows

    @cached_property
    def answered(self) -> np.ndarray:
        """`[end] bool`, the rows that the graph is asked for."""
        answered = np.ones(self.end, bool)
        answered[self.outside] = False
        return answered


NOTHING_COVERED = Coverage(0, NOTHING_BESIDE)


class Generation:
    """Rows, and perhaps a graph. Only the indexer changes the graph and its coverage.

    Attributes:
        rows: the items in memory.
        graph: the graph, whose labels are sequence numbers; None: every search is exact.
        coverage: replaced only after the graph holds what it says.
        fingerprints: of the vectors in the graph, and how many of them are alive.
        groups: numbers the vectors beside it.
        hubs: of the graph; None: there are none, or they are still to be found.
        anisotropy: of the graph's rows; None: likewise.
        dying: sequence numbers of removed items that the graph may not know of yet.
        purges: how many purges were done before it was started: it may hold what a later one erases.
    """

    def __init__(
        self, rows: Rows, graph: HnswIndex | None = None, coverage: Coverage = NOTHING_COVERED, *, purges: int = 0
    ) -> None:
        self.rows = rows
        self.graph = graph
        self.coverage = coverage
        self.fingerprints = Fingerprints()
        self.groups = Groups()
        self.hubs: Hubs | None = None
        self.anisotropy: Anisotropy | None = None
        self._surveyed = 0  # rows that the graph covered when both were looked for
        self.dying: deque[int] = deque()
        self.purges = purges

    def extend(self, graph: HnswIndex, coverage: Coverage, end: int) -> Coverage:
        """Adds the live rows from the coverage's end to `end` to a graph, and returns what it covers then."""
        view = self.rows.view
        rows = coverage.end + np.flatnonzero(view.alive[coverage.end : end])
        vectors = view.read(rows)
        first = self.fingerprints.added(fingerprints_of(vectors))
        graph.add(view.labels[rows[first]], vectors[first])
        return Coverage(end, self._joined(coverage.beside, rows[~first], vectors[~first]))

    def audited(self, graph: HnswIndex, coverage: Coverage, start: int, end: int, *, width: int) -> Coverage:
        """Returns the coverage without those rows of `start` to `end` that a walk for their own vector does not find.

        Under the inner product nothing is left out: a short vector is not its own nearest there.
        """
        view = self.rows.view
        if view.metric is Metric.DOT:
            return coverage
        lost = np.setdiff1d(start + np.flatnonzero(view.alive[start:end]), coverage.outside, assume_unique=True)
        for step in (*(glance for glance in _GLANCES if glance < width), width):
            found = graph.search(view.read(lost), step)
            lost = lost[~(found == view.labels[lost, None]).any(axis=1)]
        return Coverage(coverage.end, self._joined(coverage.beside, lost, view.read(lost)))

    def _joined(self, beside: Beside, rows: np.ndarray, vectors: np.ndarray) -> Beside:
        return beside.joined(rows, self.groups.numbers(vectors))

    def survey(self) -> None:
        """Finds what misleads walks if the graph has grown, or its hubs seem to no longer lead to the rows."""
        graph, view, coverage, seen = self.graph, self.rows.view, self.coverage, self._surveyed
        end = coverage.end
        if graph is not None and (are_outgrown(seen, end) or (end > seen and self.misleads)):
            self.hubs = Hubs.of(view, end, len(graph) + graph.dead)
            self.anisotropy = Anisotropy.of(view, coverage.answered)
            self._surveyed = end  # last: searches look at it first

    @property
    def is_surveyed(self) -> bool:
        """Whether what misleads walks is known, if anything can: a graph from the disk is searched before it is."""
        return self._surveyed > 0 or self.rows.view.metric is not Metric.DOT

    @property
    def misleads(self) -> bool:
        """Whether searches miss live items that they would find in a rebuilt graph."""
        view, hubs = self.rows.view, self.hubs
        if self.graph is None or hubs is None or hubs.stand_out:
            return False
        return not hubs.lead_to(view.alive, view.live)

    def bury(self) -> int:
        """Removes deleted items from the graph, and returns how many."""
        labels = np.fromiter((self.dying.popleft() for _ in range(len(self.dying))), np.int64)
        if self.graph is not None:
            view, coverage = self.rows.view, self.coverage
            rows = view.rows_of(labels)
            rows = rows[(rows >= 0) & (rows < coverage.end)]
            for first in range(0, len(rows), _BURIED_AT_ONCE):
                part = rows[first : first + _BURIED_AT_ONCE]
                self.graph.remove(view.labels[part])
                # Of those beside the graph it may hold an equal one, which is alive.
                held = part[coverage.answered[part]]
                self.fingerprints.removed(fingerprints_of(view.read(held)))
        return len(labels)

    def indexed_count(self) -> int:
        """Returns how many live items the graph covers, those beside it for good too; 0 without a graph."""
        return 0 if self.graph is None else int(np.count_nonzero(self.rows.view.alive[: self.coverage.end]))
