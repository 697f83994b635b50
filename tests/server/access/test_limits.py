from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog.testing

from twinsight_server.access.audit import About, AuditLog, Effect
from twinsight_server.access.limits import Limiter
from twinsight_server.access.principals import Principal, Share


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def caller(name: str, share: Share | None = None) -> Principal:
    return Principal("key", name, (), share or Share())


def refusal(limiter: Limiter, who: Principal, items: int = 0) -> tuple[str, float] | None:
    found = limiter.enter(who, items)
    if found is None:
        limiter.leave(who)
        return None
    return found.reason, round(found.wait_s, 6)


def test_a_rate_lets_a_seconds_worth_through_and_then_says_when() -> None:
    clock = Clock()
    limiter = Limiter(Share(), Share(calls_per_s=4), clock=clock)
    a, b = caller("a"), caller("b")
    assert [refusal(limiter, a) for _ in range(5)] == [None] * 4 + [("KEY_CALL_RATE", 0.25)]
    assert refusal(limiter, b) is None, "another's calls are not counted"
    clock.now += 0.25
    assert refusal(limiter, a) is None
    assert refusal(limiter, a) == ("KEY_CALL_RATE", 0.25)


def test_what_is_larger_than_a_second_holds_leaves_a_debt() -> None:
    clock = Clock()
    limiter = Limiter(Share(), Share(items_per_s=10), clock=clock)
    a = caller("a")
    assert refusal(limiter, a, 50) is None
    assert refusal(limiter, a, 1) == ("KEY_ITEM_RATE", 4.1)
    clock.now += 4.1
    assert refusal(limiter, a, 1) is None


def test_what_a_call_was_given_is_waited_for_by_the_next() -> None:
    clock = Clock()
    limiter = Limiter(Share(items_per_s=100), Share(items_per_s=10), clock=clock)
    a = caller("a")
    assert limiter.enter(a, 1) is None
    limiter.leave(a, owed=49)
    assert refusal(limiter, a, 1) == ("KEY_ITEM_RATE", 4.1)
    assert refusal(limiter, caller("b"), 1) is None
    clock.now += 4.1
    assert refusal(limiter, a, 1) is None


def test_more_things_than_a_call_may_have_count_as_so_many() -> None:
    clock = Clock()
    limiter = Limiter(Share(items_per_s=10), Share(), most_items=20, clock=clock)
    a, b = caller("a"), caller("b")
    assert refusal(limiter, a, 1_000_000) is None, "it is refused further in, for what it has too many of"
    assert refusal(limiter, b, 1) == ("SERVER_ITEM_RATE", 1.1)


def test_what_has_no_things_waits_for_nobodys() -> None:
    limiter = Limiter(Share(items_per_s=10), Share(), clock=Clock())
    a = caller("a")
    assert refusal(limiter, a, 50) is None
    assert refusal(limiter, a, 0) is None
    assert refusal(limiter, a, 1) == ("SERVER_ITEM_RATE", 4.1)


def test_a_refused_call_takes_nothing_and_the_longest_wait_is_told() -> None:
    clock = Clock()
    limiter = Limiter(Share(items_per_s=5), Share(calls_per_s=2), clock=clock)
    a = caller("a")
    assert refusal(limiter, a, 9) is None
    for _ in range(3):
        assert refusal(limiter, a, 5) == ("SERVER_ITEM_RATE", 1.0)
    full = limiter.enter(a, 5)
    assert full is not None
    assert full.error().message == "Too many items (limit 5 per second for all callers); retry after 1.000 s."
    clock.now += 1
    assert refusal(limiter, a, 5) is None


def test_a_large_call_gets_through_beside_small_ones_that_use_up_the_rate() -> None:
    clock = Clock()
    limiter = Limiter(Share(items_per_s=10), Share(), clock=clock)
    small, large = caller("small"), caller("large")
    assert refusal(limiter, small, 10) is None
    passed = list[str]()
    for turn in range(20):
        clock.now += 0.1
        for who, items in ((small, 1), (large, 8))[:: -1 if turn % 5 == 4 else 1]:  # the large one is rarely first
            if refusal(limiter, who, items) is None:
                passed.append(who.name)
    assert passed.count("large") == 2
    assert passed.count("small") == 6, "20 items in two seconds, and two of the last large one that are owed"


def test_tokens_of_one_caller_with_different_shares_have_no_more_together() -> None:
    clock = Clock()
    limiter = Limiter(Share(), Share(), clock=clock)
    plans = [caller("a", Share(calls_per_s=2)), caller("a", Share(calls_per_s=2, max_collections=3))]
    assert [refusal(limiter, one) for one in plans * 5][:2] == [None, None]
    assert {refusal(limiter, one) for one in plans * 5} == {("KEY_CALL_RATE", 0.5)}
    clock.now += 10
    assert [refusal(limiter, one) is None for one in plans * 2] == [True, True, False, False]
    owing, more = caller("b", Share(items_per_s=10)), caller("b", Share(items_per_s=20))
    assert refusal(limiter, owing, 40) is None
    assert refusal(limiter, more, 10) == ("KEY_ITEM_RATE", 1.55)


def test_a_keys_own_share_counts_before_the_servers_setting() -> None:
    limiter = Limiter(Share(), Share(calls_per_s=1, max_calls=1), clock=Clock())
    free = caller("free", Share(calls_per_s=0))
    assert limiter.enter(free, 0) is None
    assert refusal(limiter, free) == ("KEY_CALLS_FULL", 0.1)
    limiter.leave(free)
    assert [refusal(limiter, free) for _ in range(5)] == [None] * 5


def test_places_are_exact_however_many_ask_at_once() -> None:
    limiter = Limiter(Share(), Share(max_calls=3))
    a, most, inside, lock = caller("a"), [0], [0], threading.Lock()

    def call() -> int:
        taken = 0
        for _ in range(300):
            if limiter.enter(a, 0) is None:
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                taken += 1
                with lock:
                    inside[0] -= 1
                limiter.leave(a)
        return taken

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: call(), range(8))) > 0
    assert most[0] <= 3
    assert refusal(limiter, a) is None


def test_streams_have_places_of_their_own() -> None:
    limiter = Limiter(Share(), Share(max_calls=1, max_streams=1))
    a = caller("a")
    assert limiter.enter(a, 0) is None
    assert limiter.enter_stream(a) is None
    full = limiter.enter_stream(a)
    assert full is not None
    assert full.reason == "KEY_STREAMS_FULL"
    assert full.error().message == "Too many open streams (limit 1 for this caller); retry after 0.100 s."
    limiter.leave_stream(a)
    assert [limiter.enter_stream(a) is None for _ in range(2)] == [True, False]
    limiter.leave(a)
    assert refusal(limiter, a) is None


def test_callers_who_are_gone_are_forgotten_and_debtors_are_not() -> None:
    clock = Clock()
    limiter = Limiter(Share(), Share(calls_per_s=1), clock=clock)
    debtor = caller("debtor", Share(items_per_s=1))
    assert refusal(limiter, debtor, 10_000) is None
    for number in range(5000):
        clock.now += 1
        assert refusal(limiter, caller(str(number))) is None
    assert len(limiter._states) < 2100
    assert refusal(limiter, debtor, 1) == ("KEY_ITEM_RATE", 5000.0)


def write(log: AuditLog, number: int) -> None:
    log.write(
        About("call", "Search", "p" * 100 + "\udcff", number),
        Effect(),
        caller="key:a",
        peer="here",
        code="OK",
        reason="",
        request_id="1",
    )


def test_lines_of_many_threads_are_whole_and_a_moved_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: write(log, number), range(200)))
        path.rename(tmp_path / "audit.1")
        list(pool.map(lambda number: write(log, number), range(200, 400)))
    log.close()
    old, new = ([json.loads(line) for line in one.read_text().splitlines()] for one in (tmp_path / "audit.1", path))
    assert sorted(one["items"] for one in old) == list(range(200))
    assert sorted(one["items"] for one in new) == list(range(200, 400))
    assert new[0]["collection"] == "p" * 80
    assert path.stat().st_mode & 0o007 == 0


def test_a_disk_that_takes_nothing_is_told_once_and_stops_no_call() -> None:
    log = AuditLog(Path("/dev/full"))
    with structlog.testing.capture_logs() as lines:
        write(log, 1)
        write(log, 2)
    log.close()
    assert [line["event"] for line in lines] == ["the audit log can't be written; entries are lost"]


@pytest.mark.parametrize("count", [1, 0])
def test_without_limits_nothing_is_kept(count: int) -> None:
    limiter = Limiter(Share(), Share(0, 0, 0, 0))
    assert refusal(limiter, caller("a"), count) is None
    assert not limiter._states
