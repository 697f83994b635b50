"""Damage that is met while a collection is open is told, and never passes for an item that is not there."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collection import Collection
from twinsight_core.errors import DataLoss
from twinsight_core.filters import Equals
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, CollectionState, NewItem, SearchOptions
from twinsight_core.store import FILE_NAME, Store

ONE = np.ones(4, np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed collection with `person-000` to `person-019`."""
    folder = tmp_path / "things"
    folder.mkdir()
    Store.create(folder / FILE_NAME, CollectionSpec("things", 4, Metric.EUCLIDEAN))
    with closing(Collection(folder)) as collection:
        collection.upsert([NewItem(f"person-{n:03}", ONE * n, {"kind": "x"}) for n in range(20)])
    return folder


@pytest.fixture
def collection(folder: Path) -> Iterator[Collection]:
    with closing(Collection(folder)) as opened:
        yield opened


def _check_damaged(collection: Collection, read: Callable[[], object], how: str) -> None:
    for _ in range(2):
        with pytest.raises(DataLoss, match=f"Collection `things` is damaged: {how}"):
            read()
    assert collection.status().state is CollectionState.DAMAGED


def test_a_bit_turned_in_the_index_of_ids_is_damage(folder: Path) -> None:
    """The opening reads the table, which is sound; `person-007` is `person-006` in the index then."""
    file = folder / FILE_NAME
    content = bytearray(file.read_bytes())
    name = b"person-007"
    places = [at for at in range(len(content)) if content.startswith(name, at)]
    (at,) = [at for at in places if content[at + len(name) : at + len(name) + 2] != b"\0\0"]  # no vector behind it
    content[at + len(name) - 1] ^= 1
    file.write_bytes(content)
    with closing(Collection(folder)) as collection:
        assert [item is not None for item in collection.get(["person-008", "nobody"])] == [True, False]
        how = "what is found by an id is not what is held of it"
        _check_damaged(collection, lambda: collection.get(["person-007"]), how)


def test_an_item_that_a_search_misses_on_disk_is_damage(collection: Collection) -> None:
    options = SearchOptions(3, include_vectors=True)
    assert len(collection.search(ONE[None], options)[0]) == 3
    collection._store._writer.execute("DELETE FROM items WHERE id = 'person-001'")
    assert collection.search(ONE[None] * 9, options)[0][0].id == "person-009"
    _check_damaged(collection, lambda: collection.search(ONE[None], options), "an item that was found is missing")


def test_an_item_that_a_page_misses_on_disk_is_damage(collection: Collection) -> None:
    def page() -> object:
        return collection.page(after=0, limit=5, filter=Equals("kind", "x"))

    page()
    collection._store._writer.execute("DELETE FROM items WHERE id = 'person-001'")
    _check_damaged(collection, page, "an item of the page is missing")
