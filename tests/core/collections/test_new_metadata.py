"""Fields of items are written anew, and their vectors stay."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.filters import Exists
from twinsight_core.index.base import Metric
from twinsight_core.items import Checkpoint, CollectionSpec, NewItem, NewMetadata, SearchOptions
from twinsight_core.metadata import Metadata
from twinsight_core.sealing.keyring import Keyring, new_key
from twinsight_core.storage.store import FILE_NAME, Store

KEY = new_key()


@pytest.fixture(params=["plain", "encrypted"])
def collection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Collection]:
    encrypted = request.param == "encrypted"
    spec = CollectionSpec("things", 2, Metric.EUCLIDEAN)
    Store.create(tmp_path / FILE_NAME, spec, key=KEY if encrypted else None)
    made = Collection(tmp_path, CollectionOptions(keyring=Keyring(KEY) if encrypted else None))
    yield made
    made.close()


def item(name: str, *components: float, **metadata: int | str) -> NewItem:
    return NewItem(name, np.array(components, np.float32), dict(metadata))


def stored(collection: Collection) -> list[tuple[str, list[float], Metadata]]:
    page, _ = collection.page(after="", limit=9, include_vectors=True)
    return sorted(
        ((one.id, one.vector.tolist(), one.metadata) for one in page if one.vector is not None), key=lambda one: one[0]
    )


def test_new_metadata_keeps_the_vector_and_is_nothing_without_an_item(collection: Collection) -> None:
    collection.upsert([item("a", 3, 4, colour="red"), item("b", 1, 1), item("gone", 2, 2)])
    collection.delete(["gone"])
    news: list[NewItem | NewMetadata] = [NewMetadata("a", {"size": 1}), NewMetadata("never"), NewMetadata("gone")]
    assert collection.upsert([*news, item("c", 6, 8), NewMetadata("c", {"late": True})]) == [
        True,
        False,
        False,
        True,
        True,
    ]
    assert stored(collection) == [("a", [3, 4], {"size": 1}), ("b", [1, 1], {}), ("c", [6, 8], {"late": True})]
    found = {
        name: collection.search(np.array([[3, 4]], np.float32), SearchOptions(9, filter=Exists(name)))[0]
        for name in ("size", "colour")
    }
    assert [(match.id, match.score) for match in found["size"]] == [("a", 0.0)]
    assert found["colour"] == []


def test_of_a_batch_that_was_written_before_nothing_is_told(collection: Collection) -> None:
    collection.upsert([item("a", 3, 4)], checkpoint=Checkpoint("bulk", 1))
    assert collection.upsert([NewMetadata("never")], checkpoint=Checkpoint("bulk", 1)) == [True]
    assert collection.upsert([NewMetadata("never")], checkpoint=Checkpoint("bulk", 2)) == [False]
    assert collection.last_batch("bulk") == 2


def test_metadata_written_beside_vectors_never_brings_an_old_one_back(collection: Collection) -> None:
    def describe(number: int) -> None:
        collection.upsert([NewMetadata("a", {"n": number})])

    collection.upsert([item("a", 0, 0)])
    with ThreadPoolExecutor(4) as pool:
        for number in range(1, 40):
            described = [pool.submit(describe, number) for _ in range(3)]
            collection.upsert([item("a", number, 0)])
            for one in described:
                one.result(30)
            assert [vector for _, vector, _ in stored(collection)] == [[number, 0]]
