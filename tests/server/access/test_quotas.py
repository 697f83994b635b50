from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections.catalog import Catalog
from twinsight_core.errors import AlreadyExists, Cancelled, LimitReached
from twinsight_core.host.open_files import OpenFiles
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, NewItem
from twinsight_server.access import quotas
from twinsight_server.access.principals import ANYONE, Grant, Principal, Share
from twinsight_server.access.quotas import Quotas


@pytest.fixture
def limits(tmp_path: Path) -> Iterator[Quotas]:
    catalog = Catalog(tmp_path / "data")
    yield Quotas(catalog, collections=0, collections_each=0, items=0)
    catalog.close()


def test_no_collection_is_made_of_the_files_that_are_kept_for_connections(
    limits: Quotas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "open_files", lambda: OpenFiles(301, 400))
    with pytest.raises(LimitReached) as refused, limits.creating("new", ANYONE):
        pytest.fail("it is made")
    assert refused.value.reason == "OPEN_FILES_LIMIT"
    assert refused.value.message == (
        "The server has no files left for a collection: it may open 400, of which it keeps 100 for connections. Delete "
        "a collection, or raise its limit of open files (`ulimit -n`)."
    )


@pytest.mark.parametrize("files", [OpenFiles(300, 400), None])
def test_collections_are_made_while_there_are_files_or_nobody_knows(
    limits: Quotas, files: OpenFiles | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "open_files", lambda: files)
    with limits.creating("new", ANYONE):
        pass


def of(caller: str, most: int | None = None) -> Principal:
    return Principal("key", caller, (Grant(frozenset(("admin",)), (f"{caller}-*",)),), Share(max_collections=most))


def test_collections_are_counted_by_what_a_caller_may_admin(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "data")
    limits = Quotas(catalog, collections=0, collections_each=1, items=0)

    def make(name: str, caller: Principal) -> None:
        with limits.creating(name, caller):
            catalog.create(CollectionSpec(name, 2, Metric.COSINE))

    make("a-1", of("a"))
    make("b-1", of("b"))
    with pytest.raises(LimitReached, match=r"^Collections that the caller may `admin`: 1 \(limit 1\)\.") as refused:
        make("a-2", of("a"))
    assert refused.value.reason == "KEY_COLLECTIONS_LIMIT"
    with pytest.raises(AlreadyExists):  # the limit is of new ones
        make("a-1", of("a"))
    make("a-2", of("a", 2))  # its key's own limit goes before
    make("b-2", of("b", 0))
    catalog.delete("a-1")
    with pytest.raises(LimitReached):
        make("a-3", of("a"))
    catalog.close()


def test_a_write_close_to_the_limit_waits_for_the_one_before_it(tmp_path: Path) -> None:
    with closing(Catalog(tmp_path / "data")) as catalog, ThreadPoolExecutor(1) as pool:
        collection = catalog.create(CollectionSpec("a", 2, Metric.COSINE))
        limits = Quotas(catalog, collections=0, collections_each=0, items=3)
        waits = threading.Event()

        def write(*ids: str) -> None:
            with limits.writing(collection, ids, waits.set):
                collection.upsert([NewItem(one, np.ones(2, np.float32)) for one in ids])

        with limits.writing(collection, ["1", "2"]):
            collection.upsert([NewItem(one, np.ones(2, np.float32)) for one in ("1", "2")])
            waiting = pool.submit(write, "2", "3")  # there is room for it, but the two are stored and reserved
            assert waits.wait(10)
        waiting.result(10)
        assert collection.status().item_count == 3
        write("1", "2", "3")
        with pytest.raises(LimitReached, match=r"^Collection `a` has a limit of 3 items; 1 more would not fit\."):
            write("3", "4")


def test_a_write_that_nobody_wants_any_more_waits_no_longer(tmp_path: Path) -> None:
    def gone() -> None:
        raise Cancelled("The caller has gone.", reason="CANCELLED")

    with closing(Catalog(tmp_path / "data")) as catalog:
        collection = catalog.create(CollectionSpec("a", 2, Metric.COSINE))
        limits = Quotas(catalog, collections=0, collections_each=0, items=1)
        with (
            limits.writing(collection, ["1"]),
            pytest.raises(Cancelled),
            limits.writing(collection, ["2"], gone),
        ):
            pytest.fail("it is written")
        with limits.writing(collection, ["2"]):
            pass


def test_a_failed_write_leaves_its_room_to_others(tmp_path: Path) -> None:
    with closing(Catalog(tmp_path / "data")) as catalog:
        collection = catalog.create(CollectionSpec("a", 2, Metric.COSINE))
        limits = Quotas(catalog, collections=0, collections_each=0, items=2)
        with pytest.raises(OSError, match="no space"), limits.writing(collection, ["1", "2"]):
            raise OSError("no space")
        with limits.writing(collection, ["3", "4"]):
            pass
