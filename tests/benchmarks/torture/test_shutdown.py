"""A server that is told to stop ends what it has begun, loses nothing, and ends well."""

from __future__ import annotations

import signal
from pathlib import Path

from benchmarks.torture.shutdown import FLAGS, Rounds
from benchmarks.torture.shutdown_clients import Ended, Told, flaws


def test_sigterm_under_load_fails_no_call_and_loses_no_write(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path / "data", 5, (*FLAGS, "--batch-size", "1"))
    rounds.stop(0)
    rounds.check_writes()
    assert rounds.failures == []
    assert len(rounds.acknowledged) >= 10


def test_the_same_clients_tell_a_server_that_dies(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path / "data", 5, (*FLAGS, "--batch-size", "1"))
    found = rounds.stop(0, signal.SIGKILL)
    assert "seed 5, round 0: the server ended with -9" in found
    assert any("from SIGTERM, ended with UNAVAILABLE" in one for one in found)


def test_refusals_before_health_says_so_and_other_codes_are_told() -> None:
    told = Told(
        ended=[Ended("Embed", 9.0, 11.0, "OK"), Ended("Embed", 10.1, 10.2, "UNAVAILABLE")],
        ingest_code="UNAVAILABLE",
        not_serving=10.05,
    )
    assert list(flaws(told, 10.0)) == []
    told.not_serving = 10.3
    assert list(flaws(told, 10.0)) == ["a call was refused 200 ms after SIGTERM, before NOT_SERVING was seen"]
    told.ended = [Ended("Search", 9.9, 10.5, "UNAVAILABLE"), Ended("Embed", 10.1, 10.4, "INTERNAL")]
    assert list(flaws(told, 10.0)) == [
        "Search, sent -100 ms from SIGTERM, ended with UNAVAILABLE",
        "Embed, sent +100 ms from SIGTERM, ended with INTERNAL",
    ]
