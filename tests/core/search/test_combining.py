from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from twinsight_core.filters import Equals
from twinsight_core.index.base import Metric
from twinsight_core.index.exact import Found
from twinsight_core.items import SearchOptions
from twinsight_core.search.combining import MOST_QUERIES, Combiner, Searched
from twinsight_core.search.generation import Generation
from twinsight_core.search.rows import Rows
from twinsight_core.search.search import Answer

TOP_3 = SearchOptions(top_k=3)


class Searches:
    """What is searched: every query's first component comes back as a row; a query of -1 is one that fails.

    Attributes:
        sizes: queries of each search.
        go: searches wait for it.
        under_way: how many there are.
        most: how many there ever were.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.under_way = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, queries: np.ndarray, options: SearchOptions) -> Searched:
        del options
        with self._lock:
            self.sizes.append(len(queries))
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        assert self.go.wait(10)
        with self._lock:
            self.under_way -= 1
        if (queries < 0).any():
            raise ValueError("a query that fails")
        rows = Rows(1, Metric.COSINE)
        found = [Found(np.array([int(query[0])]), np.zeros(1, np.float32)) for query in queries]
        return Searched(Generation(rows), Answer(rows.view, found))


def query(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)[:, None]


def rows(searched: Searched) -> list[int]:
    return [int(found.rows[0]) for found in searched.answer.found]


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not come about")


def ask(
    pool: ThreadPoolExecutor, combiner: Combiner, wanted: list[tuple[np.ndarray, SearchOptions]]
) -> list[Future[Searched]]:
    """Asks one after another, each once the one before is under way or waits."""
    asked = []
    for number, (queries, options) in enumerate(wanted, start=1):
        asked.append(pool.submit(combiner.search, queries, options))
        wait_until(lambda number=number: combiner._under_way + len(combiner._waiting) >= number)  # type: ignore[misc]
    return asked


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(80)


def test_those_that_wait_are_searched_for_together_and_each_gets_its_own(pool: ThreadPoolExecutor) -> None:
    searches = Searches()
    asked = ask(pool, Combiner(searches, at_once=1), [(query(n, n + 100), TOP_3) for n in range(6)])
    searches.go.set()
    assert [rows(one.result(10)) for one in asked] == [[n, n + 100] for n in range(6)]
    assert searches.sizes == [2, 10]


def test_one_that_wants_something_else_is_searched_for_apart(pool: ThreadPoolExecutor) -> None:
    searches = Searches()
    other = SearchOptions(top_k=4)
    wanted = [(query(0), TOP_3), (query(1), TOP_3), (query(2), other), (query(3), TOP_3), (query(4), other)]
    asked = ask(pool, Combiner(searches, at_once=1), wanted)
    searches.go.set()
    assert [rows(one.result(10)) for one in asked] == [[0], [1], [2], [3], [4]]
    assert searches.sizes == [1, 2, 2]


def test_what_is_returned_of_a_match_does_not_part_searches(pool: ThreadPoolExecutor) -> None:
    searches = Searches()
    wanted = [(query(0), TOP_3), (query(1), TOP_3), (query(2), SearchOptions(top_k=3, include_metadata=True))]
    asked = ask(pool, Combiner(searches, at_once=1), wanted)
    searches.go.set()
    assert [rows(one.result(10)) for one in asked] == [[0], [1], [2]]
    assert searches.sizes == [1, 2]


def test_nobody_fails_for_another(pool: ThreadPoolExecutor) -> None:
    searches = Searches()
    asked = ask(pool, Combiner(searches, at_once=1), [(query(n), TOP_3) for n in (0, 1, -1, 3)])
    searches.go.set()
    assert [rows(asked[n].result(10)) for n in (0, 1, 3)] == [[0], [1], [3]]
    with pytest.raises(ValueError, match="fails"):
        asked[2].result(10)
    assert searches.sizes == [1, 3, 1, 1, 1]


def test_no_search_is_too_large_and_all_are_done(pool: ThreadPoolExecutor) -> None:
    searches = Searches()
    asked = ask(pool, Combiner(searches, at_once=1), [(query(n, n), TOP_3) for n in range(70)])
    searches.go.set()
    assert [rows(one.result(10)) for one in asked] == [[n, n] for n in range(70)]
    assert sum(searches.sizes) == 140
    assert max(searches.sizes) == MOST_QUERIES


def test_so_many_are_under_way_at_once_and_no_more(pool: ThreadPoolExecutor) -> None:
    searches = Searches()
    combiner = Combiner(searches, at_once=2)
    asked = ask(pool, combiner, [(query(n), TOP_3) for n in range(9)])
    assert searches.most == 2
    searches.go.set()
    assert [rows(one.result(10)) for one in asked] == [[n] for n in range(9)]
    assert searches.most == 2
    assert (combiner._under_way, combiner._waiting) == (0, [])


def test_one_alone_does_not_wait() -> None:
    searches = Searches()
    searches.go.set()
    combiner = Combiner(searches, at_once=1)
    for number in range(3):
        assert rows(combiner.search(query(number), TOP_3)) == [number]
    assert searches.sizes == [1, 1, 1]


def test_filters_that_differ_only_in_type_are_searched_for_apart(pool: ThreadPoolExecutor) -> None:
    searches = Searches()
    wanted = [(query(0), TOP_3)] + [
        (query(n), SearchOptions(top_k=3, filter=Equals("flag", value)))
        for n, value in enumerate((True, 1, True), start=1)
    ]
    asked = ask(pool, Combiner(searches, at_once=1), wanted)
    searches.go.set()
    assert [rows(one.result(10)) for one in asked] == [[0], [1], [2], [3]]
    assert searches.sizes == [1, 2, 1]


@dataclass(frozen=True)
class Costly(Equals):
    """A filter that counts who looks at all of it, and refuses to be looked at under the combiner's lock."""

    def __repr__(self) -> str:
        assert not Costly.lock.locked()
        Costly.looks += 1
        return "costly"

    looks: ClassVar[int] = 0
    lock: ClassVar[threading.Lock] = threading.Lock()


def test_a_filter_is_looked_at_once_by_who_waits_and_not_under_the_lock(pool: ThreadPoolExecutor) -> None:
    searches = Searches()
    combiner = Combiner(searches, at_once=1)
    Costly.lock, Costly.looks = combiner._lock, 0
    wanted = [(query(n), SearchOptions(top_k=3 + n % 2, filter=Costly("flag", n))) for n in range(9)]
    asked = ask(pool, combiner, wanted)
    searches.go.set()
    assert [rows(one.result(10)) for one in asked] == [[n] for n in range(9)]
    assert Costly.looks == 8  # the first goes at once
    assert sorted(searches.sizes) == [1, 4, 4]


def test_who_is_interrupted_while_waiting_takes_no_place_along(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = Searches()
    combiner = Combiner(searches, at_once=1)
    (first,) = ask(pool, combiner, [(query(0), TOP_3)])

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            del timeout
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("twinsight_core.search.combining.threading.Event", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            combiner.search(query(1), TOP_3)
    searches.go.set()
    assert rows(first.result(10)) == [0]
    assert rows(combiner.search(query(2), TOP_3)) == [2]
    assert (combiner._under_way, combiner._waiting, searches.sizes) == (0, [], [1, 1])


def test_an_interrupted_search_leaves_the_others_to_the_next(pool: ThreadPoolExecutor) -> None:
    searches = Searches()
    interrupted: list[int] = []

    def search(queries: np.ndarray, options: SearchOptions) -> Searched:
        found = searches(queries, options)
        if len(queries) > 1 and not interrupted:
            interrupted.append(len(queries))
            raise KeyboardInterrupt
        return found

    asked = ask(pool, Combiner(search, at_once=1), [(query(n), TOP_3) for n in range(4)])
    searches.go.set()
    assert [rows(asked[n].result(10)) for n in (0, 2, 3)] == [[0], [2], [3]]
    with pytest.raises(KeyboardInterrupt):
        asked[1].result(10)
    assert interrupted == [3]


class Gone(Exception):
    pass


def test_a_search_that_nobody_waits_for_any_more_is_not_done(pool: ThreadPoolExecutor) -> None:
    searches = Searches()
    combiner = Combiner(searches, at_once=1)
    gone = threading.Event()

    def check_wanted() -> None:
        if gone.is_set():
            raise Gone

    (first,) = ask(pool, combiner, [(query(0), TOP_3)])
    left = pool.submit(combiner.search, query(1), TOP_3, check_wanted=check_wanted)
    wait_until(lambda: len(combiner._waiting) == 1)
    gone.set()
    with pytest.raises(Gone):
        left.result(10)
    assert not combiner._waiting, "it leaves before its turn comes"
    searches.go.set()
    assert rows(first.result(10)) == [0]
    assert (combiner._under_way, searches.sizes) == (0, [1])


def test_one_that_is_gone_when_its_turn_comes_passes_it_on(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinsight_core.search.combining._LOOK_S", 60.0)
    searches = Searches()
    combiner = Combiner(searches, at_once=1)

    def check_wanted() -> None:
        raise Gone

    (first,) = ask(pool, combiner, [(query(0), TOP_3)])
    left = pool.submit(combiner.search, query(1), TOP_3, check_wanted=check_wanted)
    wait_until(lambda: len(combiner._waiting) == 1)
    last = pool.submit(combiner.search, query(2), SearchOptions(top_k=4))
    wait_until(lambda: len(combiner._waiting) == 2)
    searches.go.set()
    with pytest.raises(Gone):
        left.result(10)
    assert [rows(one.result(10)) for one in (first, last)] == [[0], [2]]
    assert (combiner._under_way, combiner._waiting, searches.sizes) == (0, [], [1, 1])


def test_a_place_is_given_back_by_whoever_fails_to_take_the_others_along(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = Searches()
    combiner = Combiner(searches, at_once=1)
    first, second = ask(pool, combiner, [(query(0), TOP_3), (query(1), TOP_3)])

    def failing(_: object) -> list[object]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(combiner, "_taken", failing)
        searches.go.set()
        assert rows(first.result(10)) == [0]
        with pytest.raises(MemoryError):
            second.result(10)
    assert rows(combiner.search(query(2), TOP_3)) == [2]
