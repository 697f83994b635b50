from __future__ import annotations

import pytest

from twinsight_server.inference.batch_wait import PERIOD, STEPS, WINDOW, FixedWait, TunedWait

from .simulated_device import Device, Served, poisson, simulate

GOAL_S = 0.05
DEVICE = Device(fixed_s=0.004, each_s=0.0005)


def tuned() -> TunedWait:
    return TunedWait(GOAL_S, lanes=2)


class Feed:
    """Tells a wait of batches that two lanes computed, one after the other, with the lanes `busy` for a part of it."""

    def __init__(self, wait: TunedWait) -> None:
        self.wait = wait
        self.now = 0.0

    def batches(self, count: int, *, size: int = 4, took_s: float = 0.01, busy: float = 0.8) -> None:
        for _ in range(count):
            begun, self.now = self.now, self.now + took_s / (2 * busy)
            self.wait.served(begun, begun + took_s, [begun] * size)


def grown() -> Feed:
    """Returns what has had the load for the longest wait."""
    feed = Feed(tuned())
    feed.batches(STEPS * PERIOD)
    assert feed.wait.seconds == feed.wait.longest_s
    return feed


def test_it_begins_without_a_wait() -> None:
    assert tuned().seconds == 0


def test_it_grows_by_a_step_a_period_up_to_half_of_the_goal() -> None:
    feed = Feed(tuned())
    waits = []
    for _ in range(STEPS + 2):
        feed.batches(PERIOD)
        waits.append(feed.wait.seconds)
    longest = GOAL_S / 2
    assert waits == pytest.approx([min(1.0, n / STEPS) * longest for n in range(1, STEPS + 3)])


def test_it_halves_as_soon_as_the_goal_is_missed() -> None:
    feed = grown()
    late = WINDOW // 100
    feed.batches(1, size=late, took_s=GOAL_S + 0.001)
    assert feed.wait.seconds == feed.wait.longest_s
    feed.batches(1, size=1, took_s=GOAL_S + 0.001)
    assert feed.wait.seconds == feed.wait.longest_s / 2


def test_pictures_that_came_before_it_was_halved_do_not_halve_it_again() -> None:
    feed = grown()
    came = feed.now
    for _ in range(3):
        feed.now += GOAL_S + 0.001
        feed.wait.served(came, feed.now, [came] * 32)
    assert feed.wait.seconds == feed.wait.longest_s / 2


def test_four_misses_bring_it_to_zero() -> None:
    feed = grown()
    for _ in range(4):
        feed.batches(1, size=32, took_s=GOAL_S + 0.001)
        feed.now += GOAL_S
    assert feed.wait.seconds == 0


def test_it_stays_where_pictures_come_near_the_goal() -> None:
    feed = Feed(tuned())
    feed.batches(2 * PERIOD)
    before = feed.wait.seconds
    feed.batches(20 * PERIOD, took_s=0.9 * GOAL_S)
    assert feed.wait.seconds == before > 0


def test_an_idle_device_brings_it_to_zero_within_four_periods() -> None:
    feed = grown()
    feed.batches(4 * PERIOD, busy=0.1)
    assert feed.wait.seconds == 0


def test_waits_that_nobody_joins_bring_it_to_zero_within_four_periods() -> None:
    feed = grown()
    for _ in range(4 * PERIOD):
        feed.wait.waited(0)
        feed.batches(1)
    assert feed.wait.seconds == 0


def test_waits_that_others_join_let_it_be() -> None:
    feed = grown()
    for _ in range(4 * PERIOD):
        feed.wait.waited(2)
        feed.batches(1)
    assert feed.wait.seconds == feed.wait.longest_s


def test_without_a_hundred_pictures_it_does_not_grow() -> None:
    feed = Feed(tuned())
    feed.batches(3 * PERIOD, size=1)
    assert feed.wait.seconds == 0
    feed.batches(PERIOD, size=1)
    assert feed.wait.seconds > 0


@pytest.mark.parametrize("rate", [5, 20, 50, 100])
def test_a_light_load_is_not_made_to_wait(rate: float) -> None:
    served = simulate(tuned(), DEVICE, poisson(rate, 2000 / rate))
    assert max(served.waits_s) == 0


@pytest.mark.parametrize("rate", [400, 800, 1200])
def test_a_heavy_load_gets_larger_batches_within_the_goal(rate: float) -> None:
    wait = tuned()
    served = simulate(wait, DEVICE, poisson(rate, 20))
    without = simulate(FixedWait(0.0), DEVICE, poisson(rate, 20))
    assert wait.seconds > 0
    assert served.mean_size(500) > 1.3 * without.mean_size(500)
    assert served.p99_s() <= GOAL_S
    # With a batch in each lane the second waits for the device anyway: what joins it meanwhile comes sooner.
    assert served.p99_s() < without.p99_s()


@pytest.mark.parametrize("rate", [100, 200, 400, 800])
def test_the_goal_is_kept_where_a_fixed_wait_would_break_it(rate: float) -> None:
    goal_s = 0.03
    assert simulate(FixedWait(0.025), DEVICE, poisson(rate, 20)).p99_s() > goal_s
    assert simulate(TunedWait(goal_s, lanes=2), DEVICE, poisson(rate, 20)).p99_s() <= goal_s


def test_after_a_load_it_is_zero_again_within_four_periods() -> None:
    wait = tuned()
    served = simulate(wait, DEVICE, poisson(1200, 20))
    assert wait.seconds > 0
    before = len(served.sizes)
    simulate(wait, DEVICE, poisson(50, 40, start_s=20), served)
    # A period that the change falls into decides nothing.
    assert max(served.waits_s[before + 5 * PERIOD :]) == 0


def test_when_a_load_comes_it_settles_within_twelve_periods() -> None:
    wait = tuned()
    served = simulate(wait, DEVICE, poisson(20, 30))
    assert wait.seconds == 0
    before = len(served.sizes)
    simulate(wait, DEVICE, poisson(1200, 90, start_s=30), served)
    settled = served.waits_s[before + 12 * PERIOD :]
    assert min(settled) > 0
    assert max(settled) - min(settled) <= 2 * wait.longest_s / STEPS


def test_the_goal_is_kept_when_the_device_becomes_slower() -> None:
    goal_s = 0.04
    wait = TunedWait(goal_s, lanes=2)
    served = simulate(wait, DEVICE, poisson(800, 20))
    pictures = len(served.took_s)
    slower = Device(fixed_s=0.006, each_s=0.0005)
    simulate(wait, slower, poisson(800, 80, start_s=20), served)
    assert served.p99_s(pictures) <= goal_s
    assert simulate(FixedWait(0.03), slower, poisson(800, 60)).p99_s() > goal_s


def test_a_device_that_is_too_slow_for_the_goal_ends_without_a_wait() -> None:
    wait = TunedWait(0.04, lanes=2)
    served = simulate(wait, DEVICE, poisson(800, 20))
    assert wait.seconds > 0
    before = len(served.sizes)
    simulate(wait, Device(fixed_s=0.008, each_s=0.0005), poisson(800, 60, start_s=20), served)
    assert max(served.waits_s[before + 4 * PERIOD :]) == 0


def test_the_same_load_gives_the_same_waits() -> None:
    first, second = (simulate(tuned(), DEVICE, poisson(800, 5)) for _ in range(2))
    assert first == second
    assert isinstance(first, Served)
