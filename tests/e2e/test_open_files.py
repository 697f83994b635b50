"""A server that may have few files open: collections leave some of them to connections."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from e2e.conftest import Reflected, health_stub, to_bytes
from e2e.errors import reason, status_of
from e2e.test_process import Process, serving

LIMIT, KEPT = 160, 64
LIMITED = ["sh", "-c", f'ulimit -Sn {LIMIT - 50}; ulimit -Hn {LIMIT}; exec "$@"', "sh"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is open is told on Linux alone")


def check_health(address: str, *, connections: int) -> None:
    """Asks for health over as many connections, all of them open at the end."""
    with ExitStack() as opened:
        for _ in range(connections):
            own = [("grpc.use_local_subchannel_pool", 1)]
            channel = opened.enter_context(grpc.insecure_channel(address, options=own))
            check = health_stub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert check.status == health_pb2.HealthCheckResponse.SERVING


def make_all(api: Reflected, made: list[str]) -> None:
    """Makes collections until one is refused."""
    while True:
        name = f"c{len(made)}"
        api.call("CollectionService", "CreateCollection", collection={"id": name, "dimension": 256})
        made.append(name)


def read_at_once(api: Reflected, names: Sequence[str]) -> None:
    """Fills collections, and reads each in many calls at once."""
    ids = [f"{number}" for number in range(200)]
    items = [{"id": one, "vector": to_bytes(np.ones(256))} for one in ids]
    with ThreadPoolExecutor(32) as threads:
        for name in names:
            api.call("CollectionService", "UpsertItems", collection=name, items=items)

            def read(_: int, name: str = name) -> int:
                got = api.call("CollectionService", "GetItems", collection=name, ids=ids, include_vectors=True)
                return len(got.results)

            assert list(threads.map(read, range(32))) == [len(ids)] * 32


def warnings(process: Process) -> list[dict[str, object]]:
    lines = map(json.loads, process.log.read_text().splitlines())
    return [line for line in lines if line["level"] == "warning" and "kept" in line]


def test_collections_leave_files_to_connections(tmp_path: Path, cache_dir: Path) -> None:
    made: list[str] = []
    with serving(tmp_path / "data", cache_dir, by=LIMITED) as (process, api):
        limits = Path(f"/proc/{process.process.pid}/limits").read_text().splitlines()
        assert next(line for line in limits if line.startswith("Max open files")).split()[3] == str(LIMIT)  # not less
        with pytest.raises(grpc.RpcError) as refused:
            make_all(api, made)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason(status_of(refused.value)) == "OPEN_FILES_LIMIT"
        assert refused.value.details() == (
            f"The server has no files left for a collection: it may open {LIMIT}, of which it keeps {KEPT} for "
            "connections. Delete a collection, or raise its limit of open files (`ulimit -n`)."
        )
        assert len(made) > 5
        check_health(process.address, connections=KEPT // 2)
        read_at_once(api, made)
        check_health(process.address, connections=KEPT // 2)
        assert not warnings(process)
    with serving(tmp_path / "data", cache_dir, by=LIMITED) as (process, api):
        (warning,) = warnings(process)
        assert (warning["limit"], warning["kept"]) == (LIMIT, KEPT)
        assert LIMIT - KEPT < int(str(warning["open"])) < LIMIT - KEPT + 10
        check_health(process.address, connections=KEPT // 2)
        for name in made[:2]:
            api.call("CollectionService", "DeleteCollection", collection=name)
        api.call("CollectionService", "CreateCollection", collection={"id": "new", "dimension": 2})
