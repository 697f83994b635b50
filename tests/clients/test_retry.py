"""When a call is sent again; no clock but the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinsight_client import DeadlineExceeded, ResourceExhausted, RetryPolicy, TwinsightClientError, Unavailable
from twinsight_client.retry import Attempts, Repeat

pytestmark = pytest.mark.client

DOWN = Unavailable("down")
FULL = ResourceExhausted("full", retry_after_s=0.5)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def attempts(
    repeat: Repeat = Repeat.WHEN_SAFE, *, timeout_s: float = 60.0, jitter: float = 0.0, clock: Clock | None = None
) -> Attempts:
    policy = RetryPolicy(attempts=4, first_wait_s=0.1, longest_wait_s=0.3)
    return Attempts(policy, repeat, timeout_s=timeout_s, clock=clock or Clock(), jitter=lambda: jitter)


def test_waits_double_up_to_the_longest_and_end_with_the_tries() -> None:
    tries = attempts()
    assert [tries.wait_after_s(DOWN) for _ in range(4)] == [0.05, 0.1, 0.15, None]
    late = attempts(jitter=1.0)
    assert [late.wait_after_s(DOWN) for _ in range(4)] == [0.1, 0.2, 0.3, None]


def test_the_servers_own_wait_comes_before_the_jittered_one() -> None:
    assert attempts().wait_after_s(FULL) == pytest.approx(0.55)


@pytest.mark.parametrize("error", [ResourceExhausted("too large"), DeadlineExceeded("late"), TwinsightClientError("x")])
def test_errors_that_another_try_can_not_help_end_the_call(error: TwinsightClientError) -> None:
    assert attempts().wait_after_s(error) is None


def test_what_is_not_safe_is_sent_again_only_where_it_was_refused() -> None:
    assert [attempts(Repeat.NEVER).wait_after_s(error) for error in (DOWN, FULL)] == [None, None]
    assert [attempts(Repeat.WHEN_REFUSED).wait_after_s(error) for error in (DOWN, FULL)] == [None, 0.55]


def test_a_server_that_names_a_time_is_asked_again_until_the_deadline() -> None:
    clock = Clock()
    for repeat in (Repeat.WHEN_REFUSED, Repeat.WHEN_SAFE):
        tries = attempts(repeat, clock=clock)
        waits = []
        while (wait_s := tries.wait_after_s(FULL)) is not None:
            waits.append(wait_s)
            clock.now += wait_s
        assert waits[:4] == pytest.approx([0.55, 0.6, 0.65, 0.65])
        assert 59 < sum(waits) < 60
    mixed = attempts()
    assert [mixed.wait_after_s(error) is None for error in (DOWN, FULL, DOWN, FULL, DOWN, FULL, DOWN)] == [
        False
    ] * 6 + [True]
    assert Attempts(RetryPolicy(attempts=1), Repeat.WHEN_SAFE, timeout_s=60.0, clock=clock).wait_after_s(FULL) is None


def test_a_wait_that_would_outlast_the_deadline_is_not_begun() -> None:
    clock = Clock()
    tries = attempts(timeout_s=1.0, clock=clock)
    clock.now += 0.6
    assert tries.remaining_s() == pytest.approx(0.4)
    assert tries.wait_after_s(FULL) is None
    clock.now += 5
    assert tries.remaining_s() == 0.0


@given(st.integers(1, 5000), st.floats(0, 1, exclude_max=True))
def test_waiting_for_a_server_goes_on_until_the_deadline_at_a_steady_pace(count: int, jitter: float) -> None:
    tries = attempts(Repeat.UNTIL_DEADLINE, timeout_s=1e6, jitter=jitter)
    waits = [tries.wait_after_s(DOWN) for _ in range(count)]
    assert all(wait is not None and 0.05 <= wait <= 0.3 for wait in waits)
