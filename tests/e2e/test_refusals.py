"""What the fake client refuses is what a real server refuses: the calls of `clients/refusals`, sent to one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clients.refusals import COLLECTION, REFUSED, prepare, refusal
from twinsight_client import Client
from twinsight_server.app import Server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as made:
        prepare(made)
        yield made
        made.delete_collection(COLLECTION)


@pytest.mark.parametrize("name", REFUSED)
def test_a_server_refuses_what_the_fake_refuses(client: Client, name: str) -> None:
    assert refusal(client, name) == REFUSED[name][1]
