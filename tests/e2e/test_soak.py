"""Calls that are given up cost nothing more, and all others end as they should."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.serving import Served
from benchmarks.torture.soak import COMPUTED, left_at_once, soaked
from benchmarks.torture.soak_calls import fill

from e2e.conftest import config, running


@pytest.fixture
def served(tmp_path: Path, cache_dir: Path) -> Iterator[Served]:
    with running(config(tmp_path / "data", cache_dir, canary_s=3600.0, metrics_listen="127.0.0.1:0")) as made:
        yield Served(made.address, 0.0, os.getpid(), made.metrics_address)


def test_calls_of_all_kinds_end_as_they_should_when_many_are_given_up(served: Served) -> None:
    fill(served.address)
    counts, counted = soaked(served, 400, seed=1)
    assert counts.flaws == []
    assert counts.codes.total() == 400
    assert counts.codes["OK"] > 100
    assert counts.given_up > 10
    assert counts.wanted <= counted[COMPUTED] < counts.wanted + counts.given_up


def test_what_nobody_waits_for_is_not_computed(served: Served) -> None:
    waiting, after = left_at_once(served, leave=True)
    assert waiting > 100
    assert after < waiting / 2
    stayed, control = left_at_once(served, leave=False)
    assert control >= stayed / 2
