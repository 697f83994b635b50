"""A server that is asked for four times what it can do answers some and refuses the rest properly."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.serving import Served
from benchmarks.torture.overload import miscounted, overloaded

from twinsight_server.app import Server


def test_all_that_is_too_much_is_refused_and_told_when_to_come_again(
    own: Server, photos: dict[str, bytes], tmp_path: Path
) -> None:
    jpeg = tmp_path / "coffee.jpg"
    jpeg.write_bytes(photos["coffee"])
    served = Served(own.address, 0.0, os.getpid())
    figures = overloaded(jpeg, served, seconds=2.0, capacity_s=0.5, concurrencies=(2,))
    assert list(miscounted(figures)) == []
    assert figures["refused"] > 0
