"""A collection that is deleted: what of it is left, and who waits for it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import NotFound, Unavailable
from twinsight_core.host.allocation import no_garbage_collection
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, NewItem, SearchOptions
from twinsight_core.search.index_policy import IndexPolicy


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "data")
    yield opened
    opened.close()


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_deleted_is_freed_without_looking_for_garbage(tmp_path: Path, *, on_disk: bool) -> None:
    options = CollectionOptions(policy=IndexPolicy(graph_from=300, patience=10))
    if on_disk:
        options = replace(options, vectors_on_disk=True, vector_copy="int8")
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    with closing(Catalog(tmp_path / "data", options=options)) as catalog, no_garbage_collection():
        collection = catalog.create(CollectionSpec("a", 8, Metric.COSINE))
        collection.upsert([NewItem(f"{n}", one, {"n": n}) for n, one in enumerate(vectors)])
        collection.delete(["7"], purge=True)
        assert collection.wait_indexed(30)
        for exact in (False, True):
            assert collection.search(vectors[:1], SearchOptions(1, exact=exact))[0][0].id == "0"
        before = len(list(Path("/proc/self/fd").iterdir()))
        parts: tuple[object, ...] = (collection._indexer, collection._indexer.generation.rows.exact, collection._writer)
        left = [weakref.ref(one) for one in (collection, *parts)]
        del parts
        del collection
        catalog.delete("a")
        assert [one() for one in left] == [None] * len(left)
        assert len(list(Path("/proc/self/fd").iterdir())) < before


def test_who_deletes_a_collection_holds_up_nobody_but_who_deletes_it_too(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, go = threading.Event(), threading.Event()
    close = Collection.close

    def slow(collection: Collection, *, snapshot: bool = True) -> None:
        if collection.spec.id == "a" and not closing.is_set():
            closing.set()
            assert go.wait(10)
        close(collection, snapshot=snapshot)

    monkeypatch.setattr(Collection, "close", slow)
    catalog.create(CollectionSpec("a", 2))
    catalog.create(CollectionSpec("b", 2))
    with ThreadPoolExecutor(2) as pool:
        deleted = pool.submit(catalog.delete, "a")
        assert closing.wait(10)
        with pytest.raises(Unavailable, match=r"`a` is being deleted; try again\.$"):
            catalog.create(CollectionSpec("a", 3))
        again = pool.submit(catalog.delete, "a")
        catalog.create(CollectionSpec("c", 2))
        catalog.delete("b")
        with pytest.raises(NotFound):
            catalog.get("a")
        assert not again.done()
        go.set()
        deleted.result(10)
        with pytest.raises(NotFound):
            again.result(10)
    catalog.create(CollectionSpec("a", 3))
    assert [name for name, _ in catalog.list()] == ["a", "c"]
