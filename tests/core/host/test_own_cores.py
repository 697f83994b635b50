"""Threads that compute at the same time, each on a core of its own."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from twinsight_core.host import own_cores
from twinsight_core.host.cores import CAN_CHOOSE, usable_cores
from twinsight_core.host.own_cores import own_core

pytestmark = pytest.mark.skipif(not CAN_CHOOSE, reason="this system does not place threads")


@pytest.fixture(autouse=True)
def none_taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    users: Counter[int] = Counter()
    monkeypatch.setattr(own_cores, "_users", users)
    yield
    assert not users.total()


def cores_of_threads(count: int) -> list[set[int]]:
    """The cores of threads that all compute at the same time."""
    together = threading.Barrier(count)

    def compute() -> set[int]:
        with own_core(wanted=True) as core:
            core.take()
            core.take()  # the second time it has one
            together.wait(10)
            on = os.sched_getaffinity(0)
            together.wait(10)
        assert os.sched_getaffinity(0) == usable_cores()
        return on

    with ThreadPoolExecutor(count) as pool:
        return [one.result() for one in [pool.submit(compute) for _ in range(count)]]


def test_threads_are_apart_while_there_are_cores_and_then_as_many_on_each() -> None:
    count = len(usable_cores())
    assert sorted(core for one in cores_of_threads(count) for core in one) == sorted(usable_cores())
    assert sorted(core for one in cores_of_threads(2 * count) for core in one) == sorted([*usable_cores()] * 2)


def test_a_thread_that_left_its_core_runs_anywhere_and_returns_to_it_if_it_is_free() -> None:
    with own_core(wanted=True) as core:
        core.take()
        home = os.sched_getaffinity(0)
        core.leave()
        assert os.sched_getaffinity(0) == usable_cores()
        core.take()
        assert os.sched_getaffinity(0) == home


def test_a_core_that_is_gone_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_cores, "usable_cores", lambda: frozenset({4_000}))
    before = os.sched_getaffinity(0)
    with own_core(wanted=True) as core:
        core.take()
        assert os.sched_getaffinity(0) == before


def test_a_thread_that_wants_no_core_stays_where_it_is() -> None:
    before = os.sched_getaffinity(0)
    with own_core(wanted=False) as core:
        core.take()
        assert os.sched_getaffinity(0) == before
