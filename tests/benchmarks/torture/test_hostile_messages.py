from __future__ import annotations

from benchmarks.torture.messages import METHODS, hostile_call


def test_a_seed_always_makes_the_same_call() -> None:
    assert hostile_call(7) == hostile_call(7)


def test_calls_are_of_every_method_and_most_are_messages() -> None:
    calls = [hostile_call(seed) for seed in range(300)]
    assert {call.method.full_name for call in calls} == {method.full_name for method in METHODS}
    assert len({call.request for call in calls}) > 200
