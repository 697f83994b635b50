"""twinsight's own server with its defaults, and Embed calls to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.orders import Settings
from benchmarks.serving import server
from twinsight_client import Client
from twinsight_client.results import Embedding


@contextmanager
def serve(settings: Settings) -> Iterator[Settings]:
    """Runs `twinsight serve`; settings: folder."""
    with server(Path(str(settings["folder"])) / "data") as served:
        yield {"address": served.address}


def subject(settings: Settings) -> _Embed:
    """Returns a client; settings: address, jpeg."""
    return _Embed(str(settings["address"]), Path(str(settings["jpeg"])).read_bytes())


class _Embed:
    """Embed of one JPEG."""

    def __init__(self, address: str, encoded: bytes) -> None:
        self._client = Client(address)
        self._encoded = encoded

    def call(self, number: int) -> Embedding:
        """Embeds it."""
        del number
        return self._client.embed([self._encoded]).values()[0]

    def values(self, number: int) -> list[float]:
        """Returns its vector."""
        return [float(one) for one in self.call(number).vector]

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()
