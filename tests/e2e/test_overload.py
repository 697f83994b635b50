"""A server that is asked for four times what it can do answers some and refuses the rest properly."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from benchmarks.serving import Served
from benchmarks.torture.overload import miscounted, overloaded

from twinsight_client import AsyncClient, Embedding, ModelResults
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


def test_a_program_may_hand_in_far_more_calls_at_once_than_a_server_takes(
    own: Server, photos: dict[str, bytes]
) -> None:
    async def embed() -> list[ModelResults[Embedding]]:
        async with AsyncClient(own.address, timeout_s=120) as client:
            return await asyncio.gather(*(client.embed([photos["coffee"]]) for _ in range(60)))

    first, *others = (batch.values()[0].vector for batch in asyncio.run(embed()))
    assert len(others) == 59
    assert all(one @ first > 0.999 for one in others)
