"""Damage that is met while a collection is open is told, and never passes for an item that is not there."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import apsw
import numpy as np
import pytest

from twinsight_core.collections.collection import Collection
from twinsight_core.errors import DataLoss, Unavailable
from twinsight_core.filters import Equals
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, CollectionState, NewItem, SearchOptions
from twinsight_core.storage.layout import checksum
from twinsight_core.storage.store import FILE_NAME, Store

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
        how = "the item stored under an id is not the one in memory"
        _check_damaged(collection, lambda: collection.get(["person-007"]), how)


@pytest.mark.parametrize(
    "metadata",
    [
        b"[1]",
        b'{"a":null}',
        b'{"a":{"b":1}}',
        b'{"a":[["x"]]}',
        b'{"a":1' + b"0" * 30 + b"}",
        b'{"a":"\xff"}',
        b'{"a"',
        b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ],
)
def test_contents_that_were_never_accepted_are_damage_whatever_their_checksum(folder: Path, metadata: bytes) -> None:
    with closing(apsw.Connection(str(folder / FILE_NAME))) as connection:
        found = (metadata, checksum(3, "person-002", (ONE * 2).tobytes(), metadata))
        connection.execute("UPDATE items SET metadata = ?, crc = ? WHERE seq = 3", found)
    with pytest.raises(DataLoss, match="an item has contents that were never accepted"):
        Collection(folder)


def test_an_item_that_a_search_misses_on_disk_is_damage(collection: Collection) -> None:
    options = SearchOptions(3, include_vectors=True)
    assert len(collection.search(ONE[None], options)[0]) == 3
    collection._store._writer.execute("DELETE FROM items WHERE id = 'person-001'")
    assert collection.search(ONE[None] * 9, options)[0][0].id == "person-009"
    _check_damaged(collection, lambda: collection.search(ONE[None], options), "an item that was found is missing")


def test_an_item_that_a_page_misses_on_disk_is_damage(collection: Collection) -> None:
    def page() -> object:
        return collection.page(after="", limit=5, filter=Equals("kind", "x"))

    page()
    collection._store._writer.execute("DELETE FROM items WHERE id = 'person-001'")
    _check_damaged(collection, page, "an item of the page is missing")


def test_after_a_write_that_reached_the_disk_alone_every_call_is_refused_and_keeps_nothing(
    folder: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(collection._writer, "_apply", failing)

    def write(name: str) -> weakref.ref[np.ndarray]:
        vector = ONE.copy()
        with pytest.raises(Unavailable) as refused:
            collection.upsert([NewItem(name, vector)])
        assert (refused.value.message, refused.value.reason) == (
            "Collection `things` must be reopened.",
            "COLLECTION_BROKEN",
        )
        return weakref.ref(vector)

    collection.check_usable()
    written = [write(f"new-{number}") for number in range(5)]
    gc.collect()
    assert [one() is None for one in written[1:4]] == [True] * 3
    assert collection.status().state is CollectionState.DAMAGED
    for read in (
        collection.check_usable,
        lambda: collection.get(["person-001"]),
        lambda: collection.search(ONE[None], SearchOptions(1)),
    ):
        with pytest.raises(Unavailable, match="must be reopened"):
            read()
    collection.close()
    with closing(Collection(folder)) as again:
        assert [item is not None for item in again.get(["new-0", "new-1", "person-001"])] == [True, False, True]
        assert again.status().state is CollectionState.READY


def test_a_read_that_waits_for_the_write_that_fails_does_not_take_it_for_damage(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed, let_go = threading.Event(), threading.Event()

    def failing(*_: object) -> None:
        committed.set()
        assert let_go.wait(60)
        raise MemoryError

    monkeypatch.setattr(collection._writer, "_apply", failing)
    with ThreadPoolExecutor(2) as pool:
        written = pool.submit(collection.upsert, [NewItem("new", ONE)])
        assert committed.wait(60)
        read = pool.submit(collection.get, ["new"])
        while not collection._writer._writing._waiting_readers:
            let_go.wait(0.005)
        let_go.set()
        for one in (written, read):
            with pytest.raises(Unavailable, match="must be reopened"):
                one.result(60)
