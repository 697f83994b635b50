"""Whatever a message holds, the answer has a documented code, and nothing comes of it outside the data folder."""

from __future__ import annotations

from pathlib import Path

from benchmarks.torture.hostile_messages import try_server

from e2e.conftest import config, running


def test_fuzzed_messages_get_documented_codes_and_leave_nothing_around_the_data(
    tmp_path: Path, cache_dir: Path
) -> None:
    data_dir = tmp_path / "srv" / "twinsight" / "data"
    data_dir.parent.mkdir(parents=True)
    with running(config(data_dir, cache_dir)) as made:
        outcome = try_server(made.address, data_dir, 0, 400)
    assert outcome.failures == []
    assert outcome.figures["OK"] != 0
    assert outcome.figures["INVALID_ARGUMENT"] != 0
