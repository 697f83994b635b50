"""Times of something done again and again."""

from __future__ import annotations

from benchmarks.measure import interleaved_ms


def test_works_take_turns_and_only_what_follows_the_warm_up_is_timed() -> None:
    done: list[str] = []
    seconds = iter(range(100))
    works = {"one": lambda: done.append("one"), "other": lambda: done.append("other")}
    times = interleaved_ms(works, count=2, warm_up=1, clock=lambda: next(seconds))
    assert done == ["one", "other"] * 3
    assert times == {"one": [1000.0] * 2, "other": [1000.0] * 2}
