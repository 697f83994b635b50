"""The thread that keeps a collection's graph up to date with its rows, beside searches and writes.

It runs only while there is something to do.

In each round it does the first of these that is due:

1. Remove deleted items from the graph.
2. Build a new generation: the first graph; one without the dead if they are many, were purged or were the hubs; one for
   vectors of other lengths than the graph can hold; or, while searches come in, one for a tail that is large compared
   with the graph. It is built in the background, with all threads, and then replaces the old one.
3. Add a piece of the tail to the graph, a small one while searches are coming in, since they wait for it.
4. Audit a piece of the graph after it has grown: a later point can take away the links to an earlier one.
5. Write a snapshot when enough has changed, and release the memory that the changes took. A graph with a purged item is
   not written.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from twinsight_core.errors import TwinsightError
from twinsight_core.host.allocation import give_back_freed
from twinsight_core.host.brief_threads import LINGER_S, NO_THREADS, joined, start_thread
from twinsight_core.index.exact import ExactView
from twinsight_core.index.hnsw import GraphParameters, HnswIndex, exponent_for, is_fit
from twinsight_core.search.generation import NOTHING_COVERED, Coverage, Generation
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.search.rows import RowBatch

# Rows added between two looks at whether to stop, when nobody waits.
_BUILD_STEP = 1024
# How long searches may wait for one addition to the graph: while they come in, and otherwise.
_BUSY_HOLD_S, _IDLE_HOLD_S = 0.004, 0.05
_BUSY_FOR_S = 1.0
_SNAPSHOT_RETRY_S = 60.0
_START_AGAIN_S = 1.0
_AUDIT_STEP = 256
# After a round that failed, doubled after each further one up to the longest; but at least so many times as long as the
# round took.
_FIRST_REST_S, _LONGEST_REST_S, _REST_SHARE = 5.0, 60.0, 4.0
# Builds that fail, one after the other, before the dead are left behind without a graph.
_BUILDS_WITH_GRAPH = 2

_log = logging.getLogger("twinsight.collection")


class Indexer:
    """Runs the rounds until it is closed. Where one fails it rests, and goes on.

    A graph that was being changed then is dropped: searches are exact until there is another.
    """

    def __init__(
        self,
        generation: Generation,
        parameters: GraphParameters,
        policy: IndexPolicy,
        *,
        name: str,
        snapshot: Callable[[HnswIndex, int, np.ndarray], None],
    ) -> None:
        """Starts the thread where there is something to do.

        Args:
            generation: where to start from.
            parameters: how graphs are built.
            policy: when.
            name: the collection's id.
            snapshot: saves a graph, the last sequence number that it covers, and those that it does not answer for.
        """
        self.generation = generation
        self._last_search_s = 0.0
        self._parameters = parameters
        self._policy = policy
        self._name = name
        self._applying = threading.Lock()  # rows stay as they are while it is held
        self._snapshot = snapshot
        self._unsaved = 0  # changes to the graph since it was last saved
        self._snapshot_not_before_s = 0.0
        # Rows added to the graph since the last audit. Whether one was due when a snapshot was taken is not on record.
        self._unaudited = 0 if generation.graph is None else max(1, len(generation.graph))
        self._unaudited_before = 0  # the same, when the audit that runs began
        self._audited_end = 0  # rows before it were looked at in the audit that runs
        self._audit_spent_s = 0.0
        self._audit_not_before_s = 0.0
        self._rows_per_second = 1000.0
        self._purges = 0
        self._rebuilt_not_before_s = 0.0
        self._saving = threading.Lock()
        self._stopping = False
        self._failures = 0  # rounds that failed, one after the other
        self._builds = 0  # that were begun since one succeeded
        self._idle = False
        self._awake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._start_again_s = math.inf  # when a search retries to start the thread, if that failed
        with self._awake:
            # What a graph from the disk lacks is not known yet.
            if generation.graph is not None or self._due():
                self._start()
            else:
                self._become_idle()

    @contextmanager
    def purging(self) -> Iterator[None]:
        """Keeps graphs from being saved meanwhile, and for good those that may hold what the rows hold no more."""
        try:
            with self._saving:
                self._purges += 1
                yield
        finally:
            self.wake()

    def apply(self, added: RowBatch, removed: np.ndarray) -> None:
        """Makes a write visible: searches see all of it or nothing.

        Args:
            added: the new items.
            removed: `[m] int64`, sequence numbers of those that are gone.
        """
        with self._applying:
            generation = self.generation
            generation.rows.apply(added, removed)
            generation.dying.extend(removed.tolist())
        self.wake()

    def wake(self) -> None:
        """Notifies the thread that rows have changed."""
        with self._awake:
            self._idle = False
            self._start()
            self._awake.notify_all()

    def searched(self) -> None:
        """Notes that a search comes in: the thread then gives way to searches."""
        self._last_search_s = time.monotonic()
        if self._last_search_s >= self._start_again_s:
            self.wake()

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until there is nothing to do; returns whether that happened in time."""
        with self._awake:
            return self._awake.wait_for(lambda: self._idle, timeout_s)

    def wants_graph(self) -> bool:
        """Returns whether the collection is large enough for a graph, has none yet, and will get one."""
        generation = self.generation
        large = generation.rows.view.live >= self._policy.graph_from
        return large and generation.graph is None

    def close(self, *, snapshot: bool, until: float = math.inf) -> bool:
        """Ends the thread after its current step, and saves the graph if it has changed and `snapshot` is true.

        Args:
            snapshot: whether the graph is saved.
            until: from then on it is not, and the thread is not waited for, on `time.monotonic`'s scale.

        Returns:
            Whether the thread has ended.
        """
        with self._awake:
            self._stopping = True
            self._awake.notify_all()
            thread = self._thread
        if not joined(thread, until=until):
            return False
        if snapshot and self.generation.graph is not None and time.monotonic() < until:
            self._unsaved += self.generation.bury()
            if self._unsaved:
                self._save(self.generation.graph)
        return True

    def _start(self) -> None:
        """Starts the thread, unless there is one.

        If that fails, searches stay exact, and the next change or search retries.
        """
        if self._thread is None and not self._stopping:
            try:
                self._thread = start_thread(self._run, name=f"twinsight-index-{self._name}")
                self._start_again_s = math.inf
            except RuntimeError:
                if self._start_again_s == math.inf:  # logged once
                    _log.warning("collection `%s` is not indexed: %s", self._name, NO_THREADS)
                self._start_again_s = time.monotonic() + _START_AGAIN_S

    def _run(self) -> None:
        while not self._stopping:
            begun = time.monotonic()
            try:
                goes_on = self._round() or self._rest()
                self._failures = 0
                if not goes_on:
                    return
            except Exception:  # noqa: BLE001 - nobody waits for this thread who could be told
                self._recover(time.monotonic() - begun)

    def _recover(self, spent_s: float) -> None:
        """Pauses after a failed round of some duration: memory or files that are missing now may be available later.

        Whatever went wrong, the rows are intact: without its graph the collection answers exactly.
        """
        self._failures += 1
        doubled_s = _FIRST_REST_S * 2.0 ** min(self._failures - 1, 16)
        rest_s = max(min(doubled_s, _LONGEST_REST_S), _REST_SHARE * spent_s)
        _log.exception("collection `%s`: indexing failed; retrying in %.0f s", self._name, rest_s)
        with self._awake:
            self._idle = False
            self._awake.wait_for(lambda: self._stopping, rest_s)

    @contextmanager
    def _changing(self, generation: Generation) -> Iterator[None]:
        """Drops the graph if changing it fails: its contents are then unknown."""
        try:
            yield
        except Exception:
            generation.graph = None
            raise

    def _rest(self) -> bool:
        """Waits until there is something to do; returns whether there soon was, otherwise the thread is to end."""
        with self._awake:
            if self._stopping or self._due():
                return True
            self._become_idle()
            audited = self._unaudited and self.generation.graph is not None
            resumed_s = [self._audit_not_before_s] if audited else []
            if self._snapshot_wanted(self.generation):
                resumed_s.append(self._snapshot_not_before_s)
            if self._stale(self.generation) or self.generation.misleads:
                resumed_s.append(self._rebuilt_not_before_s)
            timeout_s = max(0.0, min(resumed_s) - time.monotonic()) if resumed_s else LINGER_S
            if self._awake.wait_for(lambda: self._stopping or not self._idle, timeout_s) or resumed_s:
                return True
            self._thread = None
            return False

    def _become_idle(self) -> None:
        self._idle = True
        self._awake.notify_all()
        self.generation.rows.exact.release()

    def _due(self) -> bool:
        generation = self.generation
        behind = generation.graph is not None and generation.coverage.end < len(generation.rows.view)
        saving = self._snapshot_due(generation)
        return (
            bool(generation.dying) or behind or self._rebuild_due(generation) or self._audit_due(generation) or saving
        )

    def _round(self) -> bool:
        """Does the first thing that is due; returns whether anything was."""
        generation = self.generation
        if generation.dying:
            with self._changing(generation):
                self._unsaved += generation.bury()
            return True
        generation.survey()
        if self._rebuild_due(generation):
            self._rebuild(generation)
            return True
        if generation.graph is not None and generation.coverage.end < len(generation.rows.view):
            self._add_piece(generation, generation.graph)
            return True
        if self._audit_due(generation) and generation.graph is not None:
            self._audit_piece(generation, generation.graph)
            return True
        if self._snapshot_due(generation) and generation.graph is not None:
            if self._save(generation.graph):
                give_back_freed()
            return True
        return False

    def _rebuild_due(self, generation: Generation) -> bool:
        view, graph, policy = generation.rows.view, generation.graph, self._policy
        if self._are_many_dead(view):
            return True
        if graph is None:
            return view.live >= policy.graph_from
        if not is_fit(graph.exponent, view.metric, view.longest):
            return True
        if (self._stale(generation) or generation.misleads) and time.monotonic() >= self._rebuilt_not_before_s:
            return True
        if graph.dead > policy.patience and graph.dead > policy.dead_share * (graph.dead + len(graph)):
            return True
        tail = len(view) - generation.coverage.end
        return self._is_busy() and tail > policy.patience and tail > policy.tail_share * len(graph)

    def _are_many_dead(self, view: ExactView) -> bool:
        dead = len(view) - view.live
        return dead > self._policy.patience and dead > self._policy.dead_share * len(view)

    def _is_busy(self) -> bool:
        """Returns whether searches are coming in, which wait while the graph is added to."""
        return time.monotonic() - self._last_search_s < _BUSY_FOR_S

    def _stale(self, generation: Generation) -> bool:
        """Returns whether a generation's graph may hold what was purged."""
        return generation.graph is not None and generation.purges != self._purges

    def _rebuild(self, old: Generation) -> None:
        begun = time.monotonic()
        purges = self._purges  # before the rows, which lack what these purged
        start = old.rows.view
        compacting = start.live < len(start)
        rows = old.rows.compacted(start) if compacting else old.rows
        new = Generation(rows, purges=purges)
        seen = len(start)
        # Where graphs fail, rows are left behind without one: else the dead would grow without bound.
        alone = self._builds >= _BUILDS_WITH_GRAPH and self._are_many_dead(start)
        self._builds += 1
        if start.live >= self._policy.graph_from and not alone:
            graph = HnswIndex(
                start.vectors.shape[1],
                start.metric,
                self._parameters,
                capacity=start.live + start.live // 4,
                exponent=exponent_for(start.metric, rows.view.longest),
            )
            coverage, end = NOTHING_COVERED, len(rows.view)
            while coverage.end < end:
                if self._stopping:
                    return
                coverage = new.extend(graph, coverage, min(coverage.end + _BUILD_STEP, end))
            for first in range(0, end, _BUILD_STEP):
                if self._stopping:
                    return
                coverage = self._audited(new, graph, coverage, first, min(first + _BUILD_STEP, end))
            new.graph, new.coverage = graph, coverage
            new.survey()
        if compacting:
            # Most of what came in meanwhile is carried over before the writer is held up for the rest.
            seen = rows.adopt(old.rows, seen)
        with self._applying:
            if compacting:
                rows.adopt(old.rows, seen)
            view = rows.view
            new.dying.extend(view.labels[: new.coverage.end][~view.alive[: new.coverage.end]].tolist())
            self.generation = new
        self._unsaved = max(1, len(new.graph)) if new.graph is not None else 0
        self._unaudited = self._audited_end = 0
        if not alone:
            self._builds = 0
        ended = time.monotonic()
        self._rebuilt_not_before_s = ended + self._policy.purge_rest * (ended - begun)

    def _add_piece(self, generation: Generation, graph: HnswIndex) -> None:
        first = generation.coverage.end
        with self._applying:
            end = min(first + _BUILD_STEP, len(generation.rows.view))
        with self._changing(generation):
            # A vector that is written anew may take the place of the old, whose end is told with it: not before.
            self._unsaved += generation.bury()
            coverage = self._added(generation, graph, end)
            generation.coverage = self._audited(generation, graph, coverage, first, coverage.end)
        self._unsaved += coverage.end - first
        self._unaudited += coverage.end - first

    def _added(self, generation: Generation, graph: HnswIndex, end: int) -> Coverage:
        """Adds rows up to `end`, or as many as searches may wait for where they come in; returns what is covered then.

        Searches can begin between two additions. What was added is audited together: few rows are not worth a thread.
        """
        coverage = generation.coverage
        while coverage.end < end and not self._stopping:
            hold_s = _BUSY_HOLD_S if self._is_busy() else _IDLE_HOLD_S
            size, begun = max(1, int(self._rows_per_second * hold_s)), time.monotonic()
            before, coverage = coverage.end, generation.extend(graph, coverage, min(coverage.end + size, end))
            spent = max(time.monotonic() - begun, 1e-6)
            self._rows_per_second += 0.3 * ((coverage.end - before) / spent - self._rows_per_second)
            if self._is_busy():
                break
        return coverage

    def _audit_due(self, generation: Generation) -> bool:
        return generation.graph is not None and self._unaudited > 0 and time.monotonic() >= self._audit_not_before_s

    def _audit_piece(self, generation: Generation, graph: HnswIndex) -> None:
        begun, before = time.monotonic(), generation.coverage
        if not self._audited_end:
            self._audit_spent_s, self._unaudited_before = 0.0, self._unaudited
        end = min(self._audited_end + _AUDIT_STEP, before.end)
        generation.coverage = self._audited(generation, graph, before, self._audited_end, end)
        self._unsaved += len(generation.coverage.outside) - len(before.outside)
        self._audited_end = end
        self._audit_spent_s += time.monotonic() - begun
        if end == before.end:
            self._unaudited -= self._unaudited_before
            self._audited_end = 0
            self._audit_not_before_s = time.monotonic() + self._policy.audit_rest * self._audit_spent_s

    def _audited(self, generation: Generation, graph: HnswIndex, coverage: Coverage, start: int, end: int) -> Coverage:
        return generation.audited(graph, coverage, start, end, width=self._policy.audit_width)

    def _snapshot_wanted(self, generation: Generation) -> bool:
        graph, policy = generation.graph, self._policy
        if graph is None or self._stale(generation):
            return False
        return self._unsaved > policy.patience and self._unsaved > policy.snapshot_share * len(graph)

    def _snapshot_due(self, generation: Generation) -> bool:
        return self._snapshot_wanted(generation) and time.monotonic() >= self._snapshot_not_before_s

    def _save(self, graph: HnswIndex) -> bool:
        """Returns whether a snapshot was written."""
        generation = self.generation
        end = generation.coverage.end
        try:
            labels = generation.rows.view.labels
            with self._saving:
                if self._stale(generation):
                    return False
                self._snapshot(graph, int(labels[end - 1]) if end else 0, labels[generation.coverage.outside])
        except (TwinsightError, OSError) as error:
            # It only saves time at the next start.
            _log.warning("collection `%s`: no snapshot was written: %s", self._name, error)
            self._snapshot_not_before_s = time.monotonic() + _SNAPSHOT_RETRY_S
            return False
        self._unsaved = 0
        return True
