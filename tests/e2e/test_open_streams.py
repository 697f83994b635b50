"""The places of open streams whose caller's token is valid no more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from e2e.access import ONCE, new_key
from e2e.conftest import config, until
from twinsight_client import Client, NewItem, PermissionDenied, ResourceExhausted, TwinsightClientError
from twinsight_server.access.commands import keys as keys_command
from twinsight_server.app import Server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def server(tmp_path: Path, cache_dir: Path, file: Path) -> Iterator[Server]:
    """A server with one place for streams."""
    owner = new_key(file, "owner", "admin,write")
    made = Server(config(tmp_path / "data", cache_dir, api_keys=file, max_streams=1, max_streams_per_key=1))
    made.start()
    with Client(made.address, token=owner, retry=ONCE) as client:
        client.create_collection("photos", dimension=2)
    yield made
    made.stop()


def written(server: Server, key: str, items: Iterator[NewItem]) -> int:
    """Returns how many items a stream with this key has written."""
    with Client(server.address, token=key, retry=ONCE, timeout_s=30) as client:
        return sum(len(batch.values()) for batch in client.ingest("photos", items, batch_size=1))


def revoke(file: Path, name: str) -> None:
    assert CliRunner().invoke(keys_command, ["revoke", "--file", str(file), "--name", name]).exit_code == 0


@pytest.mark.parametrize("successor", ["other", "brief"])
def test_a_stream_of_a_revoked_key_gives_its_place_to_one_that_comes(
    server: Server, file: Path, successor: str
) -> None:
    key = new_key(file, "brief", "write")
    begun, over = threading.Event(), threading.Event()

    def items() -> Iterator[NewItem]:
        yield NewItem("a", [1.0, 0.0])
        begun.set()
        assert over.wait(60)

    with ThreadPoolExecutor(1) as pool:
        until(lambda: is_known(server, key))
        idle = pool.submit(written, server, key, items())
        try:
            assert begun.wait(30)
            other = new_key(file, "second", "write")
            until(lambda: is_known(server, other))
            with pytest.raises(ResourceExhausted) as full:
                written(server, other, iter([NewItem("b", [0.0, 1.0])]))
            assert full.value.reason == "STREAMS_FULL"
            revoke(file, "brief")
            next_key = new_key(file, successor, "write")
            until(lambda: is_known(server, next_key))
            assert written(server, next_key, iter([NewItem("b", [0.0, 1.0])])) == 1
        finally:
            over.set()
        with pytest.raises(TwinsightClientError):
            idle.result(30)


def test_a_stream_needs_its_right_somewhere_before_it_gets_a_place(server: Server, file: Path) -> None:
    key = new_key(file, "reader", "read")
    until(lambda: is_known(server, key))
    with pytest.raises(PermissionDenied, match="IngestItems needs the right `write`"):
        written(server, key, iter(()))


def is_known(server: Server, key: str) -> bool:
    with Client(server.address, token=key, retry=ONCE, timeout_s=30) as client:
        try:
            client.get_collection("photos")
        except PermissionDenied:
            return True
        except TwinsightClientError as error:
            return error.reason != "CREDENTIALS_INVALID"
    return True
