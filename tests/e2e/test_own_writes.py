"""What a client has written it finds at once, however many write beside it."""

from __future__ import annotations

from benchmarks.torture.own_writes import written_and_found

from twinsight_server.app import Server


def test_eight_clients_find_what_they_wrote(server: Server) -> None:
    assert written_and_found(server.address, "own-writes", 240, seed=2) == []
