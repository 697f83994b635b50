"""More calls at once on one client than its connection has places."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.conftest import config
from twinsight_client import AsyncClient, Client
from twinsight_server.app import Server

CALLS = 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Server]:
    """A server whose connections have eight places, with a collection."""
    made = Server(config(tmp_path_factory.mktemp("full"), cache_dir, max_calls=4, max_streams=4))
    made.start()
    with Client(made.address) as client:
        client.create_collection("things", dimension=2)
    yield made
    made.stop()


def test_all_calls_of_an_asyncio_client_are_answered(server: Server) -> None:
    async def calls() -> list[int]:
        async with AsyncClient(server.address, timeout_s=120) as client:
            deletions = [client.delete_items("things", [f"i{n}"]) for n in range(CALLS)]
            return [one.deleted_count for one in await asyncio.gather(*deletions)]

    assert asyncio.run(calls()) == [0] * CALLS


def test_all_calls_of_many_threads_are_answered(server: Server) -> None:
    with Client(server.address, timeout_s=120) as client, ThreadPoolExecutor(CALLS // 4) as pool:
        deletions = pool.map(lambda n: client.delete_items("things", [f"i{n}"]).deleted_count, range(CALLS))
        assert list(deletions) == [0] * CALLS
