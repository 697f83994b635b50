"""A server whose data is encrypted: from its keyring to its being killed, and what it says without its key."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import pytest

from e2e.conftest import to_bytes
from e2e.errors import reason, status_of
from e2e.test_keeping import run
from e2e.test_process import DIMENSION, refusal, serving
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import CollectionOptions
from twinsight_core.items import CollectionSpec
from twinsight_core.sealing.keyring import read_keyring


def test_a_killed_server_leaves_nothing_plain_and_comes_back_with_its_key(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, keyring = tmp_path / "data", tmp_path / "keyring.json"
    key = run("keyring", "new", "--keyring", keyring).stdout.strip()
    vectors = np.random.default_rng(0).normal(size=(200, DIMENSION)).astype(np.float32)
    metadata = {"name": {"string_value": "a secret"}}
    items = [
        {"id": f"person-{n:04}", "vector": to_bytes(vector), "metadata": metadata} for n, vector in enumerate(vectors)
    ]
    with serving(data, cache_dir, "--keyring", str(keyring)) as (process, api):
        api.call("CollectionService", "CreateCollection", collection={"id": "people", "dimension": DIMENSION})
        api.call("CollectionService", "UpsertItems", collection="people", items=items)
        process.end(signal.SIGKILL)
    content = b"".join(file.read_bytes() for file in data.rglob("*") if file.is_file())
    assert len(content) > vectors.nbytes
    for mark in (b"person-", b"a secret", *(to_bytes(vector)[:8] for vector in vectors)):
        assert mark not in content

    start = ("--listen", "127.0.0.1:0", "--data-dir", data, "--cache-dir", cache_dir, "--models", "base")
    assert f"is encrypted with the key {key}, and no keyring was given; nothing was changed." in refusal(*start)
    keyring.chmod(0o644)
    assert "others may read or change it" in refusal(*start, "--keyring", keyring)

    monkeypatch.setenv("TWINSIGHT_KEYRING", "env:KEYS")
    monkeypatch.setenv("KEYS", keyring.read_text())
    with serving(data, cache_dir) as (_, api):
        got = api.call("CollectionService", "GetItems", collection="people", ids=["person-0007"], include_vectors=True)
        assert got.results[0].item.vector == to_bytes(vectors[7])
        assert got.results[0].item.metadata["name"].string_value == "a secret"


def test_a_plain_collection_is_served_only_where_that_is_allowed(tmp_path: Path, cache_dir: Path) -> None:
    data, keyring = tmp_path / "data", tmp_path / "keyring.json"
    assert run("keyring", "new", "--keyring", keyring).returncode == 0
    with closing(Catalog(data)) as catalog:
        catalog.create(CollectionSpec("plain", DIMENSION))
    with serving(data, cache_dir, "--keyring", str(keyring)) as (process, api):
        with pytest.raises(grpc.RpcError) as refused:
            api.call("CollectionService", "GetCollection", collection="plain")
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason(status_of(refused.value)) == "COLLECTION_PLAIN"
        api.call("CollectionService", "CreateCollection", collection={"id": "sealed", "dimension": DIMENSION})
        listed = api.call("CollectionService", "ListCollections").collections
        assert [(one.id, one.state) for one in listed] == [("plain", 3), ("sealed", 1)]
        assert process.end(signal.SIGTERM) == 0
    with serving(data, cache_dir, "--keyring", str(keyring), "--allow-plain-collections") as (_, api):
        listed = api.call("CollectionService", "ListCollections").collections
        assert [(one.id, one.state) for one in listed] == [("plain", 1), ("sealed", 1)]


def test_a_collection_of_another_keyring_is_refused_alone_and_nothing_is_made_in_its_place(
    tmp_path: Path, cache_dir: Path
) -> None:
    keyrings = {name: tmp_path / f"{name}.json" for name in ("own", "foreign")}
    keys = {name: run("keyring", "new", "--keyring", file).stdout.strip() for name, file in keyrings.items()}
    for name, file in keyrings.items():
        with closing(Catalog(tmp_path / name, options=CollectionOptions(keyring=read_keyring(str(file))))) as catalog:
            catalog.create(CollectionSpec(f"of-{name}", DIMENSION))
    data, backup = tmp_path / "own", tmp_path / "backup"
    assert run("backup", "--data-dir", tmp_path / "foreign", "--out", backup).returncode == 0
    restored = run("restore", backup, "--data-dir", data)
    assert restored.stdout == f"{data}: collection of-foreign, 0 items, encrypted with the key {keys['foreign']}\n"
    with serving(data, cache_dir, "--keyring", str(keyrings["own"])) as (process, api):
        for method, arguments in (
            ("GetCollection", {"collection": "of-foreign"}),
            ("GetItems", {"collection": "of-foreign", "ids": ["a"]}),
            (
                "UpsertItems",
                {"collection": "of-foreign", "items": [{"id": "a", "vector": to_bytes(np.ones(DIMENSION))}]},
            ),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                api.call("CollectionService", method, **arguments)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert reason(status_of(refused.value)) == "KEY_MISSING"
            assert keys["foreign"] in str(refused.value.details())
        with pytest.raises(grpc.RpcError) as refused:
            api.call("CollectionService", "CreateCollection", collection={"id": "of-foreign", "dimension": DIMENSION})
        assert reason(status_of(refused.value)) == "COLLECTION_EXISTS"
        listed = api.call("CollectionService", "ListCollections").collections
        assert [(one.id, one.state) for one in listed] == [("of-foreign", 3), ("of-own", 1)]
        assert run("--target", process.address, "index", tmp_path, "-c", "of-foreign").returncode == 1
        assert process.end(signal.SIGTERM) == 0
    with serving(data, cache_dir, "--keyring", str(keyrings["foreign"])) as (_, api):
        assert api.call("CollectionService", "GetCollection", collection="of-foreign").collection.item_count == 0
