"""Combines concurrent searches of several threads into one.

A search of one query makes dozens of short calls into NumPy and the graph, each of which releases the interpreter lock
and takes it again; threads that do this concurrently spend more time passing it around than searching. A search of many
queries makes hardly more calls than one of a single query.

1. A thread that arrives while fewer than `at_once` searches are in progress searches immediately, on its own.
2. A later thread waits. A thread that finishes wakes the one that has waited longest, which takes along all that wait
   for a search with the same options, searches for all of them, and distributes the results.
3. If a combined search fails, each is repeated on its own: no search fails because of another.
4. A waiting thread checks at intervals whether its search is still wanted, and leaves if it is not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from twinsight_core.items import SearchOptions
from twinsight_core.search.generation import Generation
from twinsight_core.search.search import Answer

_LOOK_S = 0.1
"""How late a waiting thread may notice that its search is no longer wanted."""
MOST_QUERIES = 64
"""Queries in one search: more gain nothing, and the first ones would wait for the last."""


@dataclass(frozen=True)
class Searched:
    """What was found, and in what.

    Attributes:
        generation: rows and graph that were searched.
        answer: for each query what was found.
    """

    generation: Generation
    answer: Answer

    def part(self, start: int, stop: int) -> Searched:
        """Returns what was found for some of the queries."""
        if stop - start == len(self.answer.found):
            return self
        return replace(self, answer=replace(self.answer, found=self.answer.found[start:stop]))


@dataclass(eq=False)
class _Waiting:
    """A search that someone waits for.

    Attributes:
        queries: `[n, dimension] float32`, prepared.
        options: what is wanted.
        woken: of one that waits: set once it was done, or is to be done by the one that waits.
        outcome: what was found, or what went wrong; None while it is still to be done.
        has_left: whether nobody waits for it any more.
        key: of one that waits: equal to that of others that look for the same in the same way.
    """

    queries: np.ndarray
    options: SearchOptions
    woken: threading.Event | None = None  # to make one takes as long as a tenth of a small search
    outcome: Searched | BaseException | None = None
    has_left: bool = False
    key: tuple[int, int, bool, str] | None = None

    def end(self, outcome: Searched | BaseException) -> None:
        """Says what came of it."""
        self.outcome = outcome
        self.wake()

    def wake(self) -> None:
        """Wakes the one that waits, if there is one."""
        if self.woken is not None:
            self.woken.set()


class Combiner:
    """Searches of many threads.

    Args:
        search: does one; may be called from several threads.
        at_once: searches that may be under way at the same time, at least 1.
    """

    def __init__(self, search: Callable[[np.ndarray, SearchOptions], Searched], *, at_once: int) -> None:
        self._search = search
        self._at_once = at_once
        self._lock = threading.Lock()
        self._under_way = 0
        self._waiting: list[_Waiting] = []

    def search(
        self, queries: np.ndarray, options: SearchOptions, *, check_wanted: Callable[[], None] = lambda: None
    ) -> Searched:
        """Searches, together with threads that ask for the same at the same time.

        Args:
            queries: `[n, dimension] float32`, prepared.
            options: what is wanted.
            check_wanted: raises if nobody waits for the result any more; called while this waits for its turn.
        """
        mine = _Waiting(queries, options)
        with self._lock:
            at_once = self._takes_place()
        if not at_once:
            # Not under the lock: for a filter with a thousand values it takes 0.2 ms.
            mine.key = _key(options)
            with self._lock:
                if not self._takes_place():
                    mine.woken = threading.Event()
                    self._waiting.append(mine)
        if mine.woken is not None:
            try:
                while not mine.woken.wait(_LOOK_S):
                    check_wanted()
                if mine.outcome is None:
                    check_wanted()
            except BaseException:  # Ctrl-C in the main thread, too
                self._leave(mine)
                raise
        if mine.outcome is None:  # it has a place
            together = [mine]
            try:
                if mine.woken is not None:
                    together = self._taken(mine)
                self._do(together)
            except BaseException:
                # This thread is interrupted: the others' searches are done by the next one.
                with self._lock:
                    self._waiting[:0] = [
                        one for one in together if one is not mine and one.outcome is None and not one.has_left
                    ]
                raise
            finally:
                self._pass_on()
        if isinstance(mine.outcome, Searched):
            return mine.outcome
        raise mine.outcome or RuntimeError("a search ended without an outcome")

    def _takes_place(self) -> bool:
        """Takes one of the places to search at once, if there is any."""
        is_free = self._under_way < self._at_once
        self._under_way += is_free
        return is_free

    def _taken(self, first: _Waiting) -> list[_Waiting]:
        """Returns `first` and those that wait for the same, and takes them off the list."""
        with self._lock:
            taken, left, room = [first], list[_Waiting](), MOST_QUERIES - len(first.queries)
            for other in self._waiting:
                if other.key == first.key and len(other.queries) <= room:
                    taken.append(other)
                    room -= len(other.queries)
                else:
                    left.append(other)
            self._waiting = left
            return taken

    def _do(self, together: list[_Waiting]) -> None:
        """Runs the searches, and wakes the threads that wait for them."""
        queries = [one.queries for one in together]
        try:
            found = self._search(queries[0] if len(queries) == 1 else np.concatenate(queries), together[0].options)
        except Exception as error:  # noqa: BLE001 - raised again by the one that it is of
            if len(together) == 1:
                together[0].end(error)
                return
            for one in together:
                self._do([one])
            return
        start = 0
        for one in together:
            stop = start + len(one.queries)
            one.end(found.part(start, stop))
            start = stop

    def _leave(self, mine: _Waiting) -> None:
        """Withdraws a search that nobody waits for any more, and passes on the place that it may have got."""
        with self._lock:
            was_woken = mine.woken is not None and mine.woken.is_set()
            self._waiting = [one for one in self._waiting if one is not mine]
            mine.has_left = True
        if was_woken and mine.outcome is None:
            self._pass_on()

    def _pass_on(self) -> None:
        """Wakes the next one, which searches in this one's place."""
        with self._lock:
            if self._waiting:
                # It is off the list, so that nobody else takes it along; its place stays taken.
                self._waiting.pop(0).wake()
            else:
                self._under_way -= 1


def _key(options: SearchOptions) -> tuple[int, int, bool, str]:
    """Returns what is equal for searches that look for the same; what is returned of it is each one's own."""
    # Not the filter itself: in it True equals 1, which it tells apart.
    return options.top_k, options.ef, options.exact, repr(options.filter)
