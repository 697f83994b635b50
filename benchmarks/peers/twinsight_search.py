"""twinsight's own server with its defaults, and Search calls by vector to it."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.peers.orders import Settings
from benchmarks.peers.twinsight_server import serve
from twinsight_client import Client, NewItem
from twinsight_client.results import Match
from twinsight_core.search.index_policy import IndexPolicy

__all__ = ["fill", "serve", "subject"]

COLLECTION = "bench"
TOP_K = 10
BATCH = 1000


def fill(settings: Settings) -> Settings:
    """Upserts the vectors and waits for the graph; settings: address, vectors, timeout_s."""
    vectors = np.load(str(settings["vectors"]))
    start = time.monotonic()
    with Client(str(settings["address"])) as client:
        client.create_collection(COLLECTION, dimension=vectors.shape[1])
        for first in range(0, len(vectors), BATCH):
            part = vectors[first : first + BATCH]
            client.upsert(COLLECTION, [NewItem(str(first + n), one) for n, one in enumerate(part)]).values()
        stored_s = time.monotonic() - start
        if len(vectors) < IndexPolicy().graph_from:
            return {"stored_s": round(stored_s, 2), "graph": "none: so few are compared with all"}
        while client.get_collection(COLLECTION).indexed_count < len(vectors):
            if time.monotonic() - start > float(settings["timeout_s"]):
                raise TimeoutError(f"The items were not indexed within {settings['timeout_s']} s.")
            time.sleep(0.1)
    return {"stored_s": round(stored_s, 2), "indexed_s": round(time.monotonic() - start, 2)}


def subject(settings: Settings) -> _Search:
    """Returns a client; settings: address, queries, ef."""
    return _Search(str(settings["address"]), np.load(str(settings["queries"])), int(settings["ef"]))


class _Search:
    """Search of the ten closest."""

    def __init__(self, address: str, queries: np.ndarray, ef: int) -> None:
        self._client = Client(address)
        self._queries = queries
        self._ef = ef

    def call(self, number: int) -> list[Match]:
        """Asks one query."""
        return self._ask([self._queries[number % len(self._queries)]])[0]

    def batch(self, first: int, size: int) -> list[list[Match]]:
        """Asks many in one call."""
        places = np.arange(first, first + size) % len(self._queries)
        return self._ask(list(self._queries[places]))

    def values(self, number: int) -> list[float]:
        """Returns the numbers of the vectors found."""
        return [float(match.id) for match in self.call(number)]

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def _ask(self, queries: list[np.ndarray]) -> list[list[Match]]:
        found = self._client.search(COLLECTION, queries, top_k=TOP_K, ef=self._ef, include_metadata=False)
        return found.values()
