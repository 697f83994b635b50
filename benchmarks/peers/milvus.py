"""Milvus standalone from the wheel that carries its server, with an HNSW index, and searches by its own client."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.peers.orders import Settings

COLLECTION, METRIC = "bench", "IP"
TOP_K = 10
BATCH = 2000
CONSISTENCY = "Eventually"
"""The level that waits for nothing; nothing is written while it is measured."""


@contextmanager
def serve(settings: Settings) -> Iterator[Settings]:
    """Runs the server; settings: folder. It takes the ports that it is made for, or the next free ones."""
    server = importlib.import_module("milvus").default_server
    server.set_base_dir(str(Path(str(settings["folder"])) / "milvus"))
    try:
        server.start()
        yield {"address": f"http://127.0.0.1:{server.listen_port}", "consistency": CONSISTENCY}
    finally:
        server.stop()


def fill(settings: Settings) -> Settings:
    """Inserts the vectors, builds the index and loads it; settings: address, vectors, m, ef_construction, timeout_s."""
    pymilvus = importlib.import_module("pymilvus")
    client = pymilvus.MilvusClient(uri=str(settings["address"]))
    vectors = np.load(str(settings["vectors"]))
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", pymilvus.DataType.INT64, is_primary=True)
    schema.add_field("vector", pymilvus.DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    start = time.monotonic()
    client.create_collection(COLLECTION, schema=schema, num_shards=1)
    for first in range(0, len(vectors), BATCH):
        rows = [{"id": first + n, "vector": one} for n, one in enumerate(vectors[first : first + BATCH])]
        client.insert(COLLECTION, rows)
    client.flush(COLLECTION)
    stored_s = time.monotonic() - start
    graph = {"M": int(settings["m"]), "efConstruction": int(settings["ef_construction"])}
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type=METRIC, params=graph)
    client.create_index(COLLECTION, index)
    while client.describe_index(COLLECTION, "vector")["indexed_rows"] < len(vectors):
        if time.monotonic() - start > float(settings["timeout_s"]):
            raise TimeoutError(f"The rows were not indexed within {settings['timeout_s']} s.")
        time.sleep(0.2)
    client.load_collection(COLLECTION)
    facts: Settings = {
        "server": str(client.get_server_version()),
        "segments": len(client.list_loaded_segments(COLLECTION)),
        "stored_s": round(stored_s, 2),
        "indexed_s": round(time.monotonic() - start, 2),
    }
    client.close()
    return facts


def subject(settings: Settings) -> _Search:
    """Returns a client; settings: address, queries, ef."""
    return _Search(str(settings["address"]), np.load(str(settings["queries"])), int(settings["ef"]))


class _Search:
    """A search of the ten closest."""

    def __init__(self, address: str, queries: np.ndarray, ef: int) -> None:
        self._client = importlib.import_module("pymilvus").MilvusClient(uri=address)
        self._queries = queries
        self._parameters = {"metric_type": METRIC, "params": {"ef": ef}}

    def call(self, number: int) -> list[int]:
        """Returns the numbers of the vectors found."""
        return [hit["id"] for hit in self._ask([self._queries[number % len(self._queries)]])[0]]

    def batch(self, first: int, size: int) -> list[list[int]]:
        """Asks many in one call."""
        places = np.arange(first, first + size) % len(self._queries)
        return [[hit["id"] for hit in hits] for hits in self._ask(list(self._queries[places]))]

    def values(self, number: int) -> list[float]:
        """Returns the numbers of the vectors found."""
        return [float(one) for one in self.call(number)]

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def _ask(self, queries: list[np.ndarray]) -> list[list[dict[str, int]]]:
        found: list[list[dict[str, int]]] = self._client.search(
            COLLECTION, queries, limit=TOP_K, search_params=self._parameters, consistency_level=CONSISTENCY
        )
        return found
