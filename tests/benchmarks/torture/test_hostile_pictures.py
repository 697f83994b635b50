from __future__ import annotations

import pytest
from benchmarks.torture.hostile_decoder import try_decoder
from benchmarks.torture.pictures import hostile_picture

from benchmarks.torture import hostile_decoder


def test_the_decoder_outlives_hostile_pictures() -> None:
    outcome = try_decoder(0, 60)
    assert outcome.failures == []
    decoded = outcome.figures["decoded"]
    assert isinstance(decoded, int)
    assert 10 < decoded < 50  # some damage gets far, and most does harm


def test_a_seed_always_makes_the_same_picture() -> None:
    assert hostile_picture(7) == hostile_picture(7)
    assert len({hostile_picture(seed) for seed in range(40)}) > 30


def test_a_picture_over_the_bar_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile_decoder, "MOST_S", -1.0)
    outcome = try_decoder(3, 1)
    assert [failure.partition(":")[0] for failure in outcome.failures] == ["seed 3"]
