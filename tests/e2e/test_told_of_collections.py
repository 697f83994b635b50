"""What the metrics and the log tell of the collections."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from e2e.conftest import Dynamic, Reflected, config, counted, running, to_bytes
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection
from twinsight_core.items import CollectionSpec
from twinsight_server.app import Server

ITEMS = [{"id": name, "vector": to_bytes(np.ones(3))} for name in ("a", "b")]


def opened(server: Server, name: str) -> Collection:
    return server._catalog.get(name)


def counts(server: Server) -> tuple[float, float]:
    return counted(server, "twinsight_collection_items"), counted(server, "twinsight_damaged_collections")


def test_damage_that_is_found_while_serving_is_counted_and_told_once(
    api: Reflected, server: Server, small: str, caplog: pytest.LogCaptureFixture
) -> None:
    items, damaged = counts(server)
    api.call("CollectionService", "UpsertItems", collection=small, items=ITEMS)
    assert counts(server) == (items + 2, damaged)
    opened(server, small)._store._writer.execute("DELETE FROM items WHERE id = 'a'")
    caplog.set_level(logging.INFO, "twinsight.calls")
    refused: list[Dynamic] = []
    with capture_logs() as logged:
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                api.call("CollectionService", "GetItems", collection=small, ids=["a"])
            refused.append(caught.value)
    assert {one.code() for one in refused} == {grpc.StatusCode.DATA_LOSS}
    assert counts(server) == (items, damaged + 1)
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in told] == [f"collection `small` is no longer used: {refused[0].details()}"]
    lines = [(line["collection"], line["code"]) for line in logged if line.get("method") == "GetItems"]
    assert lines == [("small", "DATA_LOSS")] * 2


def test_a_collection_that_must_be_opened_again_is_counted_as_damaged(
    api: Reflected, server: Server, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise MemoryError

    items, damaged = counts(server)
    api.call("CollectionService", "UpsertItems", collection=small, items=ITEMS[:1])
    monkeypatch.setattr(opened(server, small)._writer, "_apply", failing)
    with pytest.raises(grpc.RpcError):
        api.call("CollectionService", "UpsertItems", collection=small, items=ITEMS[1:])
    assert counts(server) == (items, damaged + 1)


def test_a_line_of_a_call_names_its_collection_where_it_has_one(
    api: Reflected, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "twinsight.calls")
    with capture_logs() as logged:
        api.call("ModelService", "ListModels")
        with pytest.raises(grpc.RpcError):
            api.call("CollectionService", "GetCollection", collection="x" * 100)
    named = {line["method"]: line.get("collection") for line in logged}
    assert (named["ListModels"], named["GetCollection"]) == (None, "x" * 80)


def test_collections_whose_model_is_not_served_are_told_at_the_start_and_counted(
    tmp_path: Path, cache_dir: Path
) -> None:
    catalog = Catalog(tmp_path / "data")
    for number in range(7):
        catalog.create(CollectionSpec(f"album-{number}", 3, model_name="before", model_digest="sha256:0a"))
    catalog.create(CollectionSpec("unbound", 3))
    catalog.close()
    with capture_logs() as logged, running(config(tmp_path / "data", cache_dir)) as server:
        assert counted(server, "twinsight_collections", state="ready") == 8
        assert counted(server, "twinsight_unserved_collections") == 7
    assert [line for line in logged if line["log_level"] == "warning"] == [
        {
            "event": "model not served for some collections; image writes and image searches will be rejected",
            "log_level": "warning",
            "count": 7,
            "models": ["before sha256:0a"],
            "first": [f"album-{number}" for number in range(5)],
        }
    ]


def test_items_that_are_read_and_deleted_are_counted(api: Reflected, server: Server, small: str) -> None:
    def told() -> dict[tuple[str, str], float]:
        methods, outcomes = ("GetItems", "ListItems", "DeleteItems"), ("OK", "NOT_FOUND", "INVALID_ARGUMENT")
        return {
            (method, outcome): counted(server, "twinsight_items_total", method=method, outcome=outcome)
            for method in methods
            for outcome in outcomes
        }

    api.call("CollectionService", "UpsertItems", collection=small, items=ITEMS)
    before = told()
    api.call("CollectionService", "GetItems", collection=small, ids=["a", "b", "x", ""])
    api.call("CollectionService", "ListItems", collection=small)
    api.call("CollectionService", "DeleteItems", collection=small, ids=["a", "x"])
    every = {"condition": {"field": "n", "exists": False}}
    api.call("CollectionService", "DeleteItems", collection=small, filter=every)
    more = {what: count - before[what] for what, count in told().items() if count != before[what]}
    assert more == {
        ("GetItems", "OK"): 2,
        ("GetItems", "NOT_FOUND"): 1,
        ("GetItems", "INVALID_ARGUMENT"): 1,
        ("ListItems", "OK"): 2,
        ("DeleteItems", "OK"): 2,
        ("DeleteItems", "NOT_FOUND"): 1,
    }
