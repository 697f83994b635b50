"""Closing in time, beside a purge that takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import StartupError
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.items import CollectionSpec, NewItem
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage.store import Store

OPTIONS = CollectionOptions(graph=GraphParameters(threads=2), policy=IndexPolicy(graph_from=100, patience=50))


def item(number: int) -> NewItem:
    return NewItem(f"item-{number}", np.random.default_rng(number).normal(size=8).astype(np.float32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def catalog(folder: Path) -> Iterator[Catalog]:
    made = Catalog(folder, options=OPTIONS)
    for name in "abc":
        made.create(CollectionSpec(name, 8)).upsert([item(number) for number in range(200)])
        assert made.get(name).wait_indexed(60)
    yield made
    made.close()


@pytest.fixture
def go() -> threading.Event:
    """Lets the purge end."""
    return threading.Event()


@pytest.fixture
def purge(catalog: Catalog, go: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Iterator[Future[list[bool]]]:
    """A purge of collection `b` that lasts until `go`, or as long as the test."""
    erasing, erase = threading.Event(), Store.erase

    def lasting(store: Store) -> None:
        erasing.set()
        assert go.wait(60)
        erase(store)

    with monkeypatch.context() as patched, ThreadPoolExecutor(1) as pool:
        patched.setattr(Store, "erase", lasting)
        purging = pool.submit(catalog.get("b").delete, ["item-7"], purge=True)
        assert erasing.wait(60)
        yield purging
        go.set()
        assert purging.result(60) == [True]


def graphs(folder: Path, name: str) -> set[str]:
    return {file.name for file in (folder / "collections" / name).glob("graph-*")}


def changed(catalog: Catalog, folder: Path) -> dict[str, set[str]]:
    """Changes the other collections' graphs; returns the files that they have, none of which has the change."""
    before = dict[str, set[str]]()
    for name in ("a", "c"):  # before and after it
        before[name] = graphs(folder, name)
        catalog.get(name).upsert([item(1000)])
        assert catalog.get(name).wait_indexed(60)
        assert graphs(folder, name) == before[name]
    return before


def test_a_purge_holds_up_neither_closing_nor_the_graphs_of_others(
    catalog: Catalog, purge: Future[list[bool]], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = changed(catalog, folder)
    catalog.close(until=time.monotonic() + 2.0)
    assert not purge.done()
    assert "collection `b` is left open" in caplog.text
    for name, known in before.items():
        assert graphs(folder, name) > known
    with pytest.raises(StartupError, match="in use"):
        Catalog(folder)


def test_closing_does_not_wait_for_a_deletion_that_waits_for_a_purge(
    catalog: Catalog, purge: Future[list[bool]], folder: Path
) -> None:
    before = changed(catalog, folder)
    deletion = threading.Thread(target=catalog.delete, args=("b",))
    deletion.start()
    while not catalog._leaving:
        time.sleep(0.001)
    catalog.close(until=time.monotonic() + 2.0)
    assert deletion.is_alive()
    assert not purge.done()
    for name, known in before.items():
        assert graphs(folder, name) > known
    with pytest.raises(StartupError, match="in use"):
        Catalog(folder)


def test_a_collection_that_is_left_open_can_be_closed_later(
    catalog: Catalog, purge: Future[list[bool]], go: threading.Event, folder: Path
) -> None:
    left: Collection = catalog.get("b")
    assert not left.close(until=time.monotonic())
    assert not left.close(until=time.monotonic())
    assert not purge.done()
    go.set()
    assert left.close()
    assert purge.result(60) == [True]
    catalog.close()
    again = Catalog(folder, options=OPTIONS)
    assert again.get("b").get(["item-7", "item-8"])[0] is None
    again.close()
