"""A server on grpcio that does nothing, and calls to it of a query's size: no such server in Python answers more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from benchmarks.echo import calling, serving
from benchmarks.peers.orders import Settings


@contextmanager
def serve(settings: Settings) -> Iterator[Settings]:
    """Runs the server; settings: threads."""
    with serving(int(settings["threads"])) as address:
        yield {"address": address}


def subject(settings: Settings) -> _Call:
    """Returns a connection; settings: address, queries."""
    return _Call(str(settings["address"]), np.load(str(settings["queries"]), mmap_mode="r")[0].tobytes())


class _Call:
    """A call that brings one query, as bytes, and gets as many back."""

    def __init__(self, address: str, query: bytes) -> None:
        self._stack = ExitStack()
        self._call = self._stack.enter_context(calling(address))
        self._query = query

    def call(self, number: int) -> bytes:
        """Calls."""
        del number
        return self._call(self._query)

    def values(self, number: int) -> list[float]:
        """Returns what came back."""
        return [float(one) for one in self.call(number)]

    def close(self) -> None:
        """Ends the connection."""
        self._stack.close()
