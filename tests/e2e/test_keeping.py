"""A server's data is backed up while it serves, restored elsewhere, purged and salvaged, all by its commands."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path

import numpy as np

from e2e.conftest import to_bytes, until
from e2e.test_process import DIMENSION, TWINSIGHT, fill, serving
from live_copies import copied_in_use


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a command of twinsight."""
    return subprocess.run([TWINSIGHT, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


def test_a_backup_of_a_server_that_ingests_serves_elsewhere(tmp_path: Path, cache_dir: Path) -> None:
    data, backup, other = tmp_path / "data", tmp_path / "backup", tmp_path / "other"
    acknowledged: set[str] = set()
    with serving(data, cache_dir) as (process, api):
        api.call("CollectionService", "CreateCollection", collection={"id": "log", "dimension": DIMENSION})
        ingest = threading.Thread(target=fill, args=(api, acknowledged, lambda: None))
        ingest.start()
        until(lambda: len(acknowledged) >= 300)
        before = sorted(acknowledged.copy())
        done = run("backup", "--data-dir", data, "--out", backup)
        assert (done.returncode, done.stderr) == (0, "")
        refused = run("restore", backup, "--data-dir", data)
        assert (refused.returncode, refused.stderr) == (
            1,
            f"twinsight: Data folder `{data}` is in use by another server.\n",
        )
        process.process.send_signal(signal.SIGKILL)
        ingest.join()
    assert run("restore", backup, "--data-dir", other).returncode == 0
    with serving(other, cache_dir) as (_, api):
        described = api.call("CollectionService", "GetCollection", collection="log").collection
        assert described.item_count >= len(before)
        assert described.item_count % 10 == 0  # batches are whole
        got = api.call("CollectionService", "GetItems", collection="log", ids=before[:1000])
        assert [result.item.id for result in got.results] == before[:1000]


def test_what_a_server_purged_is_not_in_its_data_folder(tmp_path: Path, cache_dir: Path) -> None:
    data = tmp_path / "data"
    with serving(data, cache_dir) as (process, api):
        api.call("CollectionService", "CreateCollection", collection={"id": "people", "dimension": DIMENSION})
        vectors = np.random.default_rng(0).normal(size=(200, DIMENSION)).astype(np.float32)
        metadata = [{"name": {"string_value": f"secret-{n:04}"}} for n in range(200)]
        items = [{"id": f"person-{n:04}", "vector": to_bytes(vectors[n]), "metadata": metadata[n]} for n in range(200)]
        api.call("CollectionService", "UpsertItems", collection="people", items=items)
        done = run("--target", process.address, "collections", "delete-items", "people", "person-0007", "--purge")
        assert (done.returncode, done.stderr) == (0, "Deleted 1 items, and erased them.\n")
        folder = copied_in_use(data, tmp_path / "copy")  # as it is at this moment
        assert process.end(signal.SIGTERM) == 0
    for place in (folder, data):
        content = b"".join(file.read_bytes() for file in place.rglob("*") if file.is_file())
        assert b"person-0008" in content
        for mark in (b"person-0007", b"secret-0007", vectors[7].tobytes()[:8], vectors[7].tobytes()[-8:]):
            assert mark not in content


def test_a_damaged_collection_is_salvaged_and_put_back(tmp_path: Path, cache_dir: Path) -> None:
    data, saved = tmp_path / "data", tmp_path / "saved"
    with serving(data, cache_dir) as (process, api):
        api.call("CollectionService", "CreateCollection", collection={"id": "log", "dimension": DIMENSION})
        items = [{"id": f"{n}", "vector": to_bytes(np.full(DIMENSION, 1 + n))} for n in range(900)]
        api.call("CollectionService", "UpsertItems", collection="log", items=items)
        assert process.end(signal.SIGTERM) == 0
    store = data / "collections" / "log" / "store.db"
    content = bytearray(store.read_bytes())
    page = content.index(np.full(DIMENSION, 451, "<f4").tobytes()) // 16384
    content[page * 16384 : (page + 1) * 16384] = b"\xa5" * 16384
    store.write_bytes(content)
    done = run("salvage", "log", "--data-dir", data, "--out", saved)
    assert done.returncode == 0, done.stderr
    kept = int(done.stdout.split()[1])
    assert 700 < kept < 900
    assert done.stdout == f"{saved / 'log'}: {kept} of 900 items, {900 - kept} lost\n"
    assert run("restore", saved, "--data-dir", data, "--replace").returncode == 0
    with serving(data, cache_dir) as (_, api):
        described = api.call("CollectionService", "GetCollection", collection="log").collection
        assert (described.item_count, described.state) == (kept, 1)
