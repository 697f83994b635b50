"""What is sealed can be read in its own place alone, and looking it up needs the key."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import numpy as np
import pytest

from live_copies import copied_in_use
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import DataLoss, FailedPrecondition
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import GraphParameters, HnswIndex
from twinsight_core.items import CollectionSpec, NewItem, SearchOptions
from twinsight_core.sealing import files
from twinsight_core.sealing.cipher import OVERHEAD
from twinsight_core.sealing.keyring import Key, Keyring, new_key
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage.data_folder import COLLECTIONS
from twinsight_core.storage.layout import checksum
from twinsight_core.storage.records import Changes, StoredItem
from twinsight_core.storage.rekeying import Rekeyed, rekey
from twinsight_core.storage.snapshots import digest_of, load
from twinsight_core.storage.store import FILE_NAME, Store

SPEC = CollectionSpec("things", 4, Metric.DOT, "base", "sha256:00", 12.5)
KEYRING = Keyring(new_key())
Change = Callable[[apsw.Connection], None]


def _stored(seq: int, name: str) -> StoredItem:
    return StoredItem(seq, name, np.full(4, seq, "<f4").tobytes(), b'{"n":%d}' % seq)


def _made(tmp_path: Path, spec: CollectionSpec = SPEC) -> Path:
    """Returns the file of a closed store with the items `i1` to `i5`."""
    file = tmp_path / spec.id / FILE_NAME
    file.parent.mkdir()
    Store.create(file, spec, key=KEYRING.primary)
    with closing(Store(file, keyring=KEYRING)) as store:
        items = [_stored(seq, f"i{seq}") for seq in range(1, 6)]
        store.commit(Changes([], items, {"bulk": 3, "more": 4}, next_seq=6, item_count=5))
    return file


def _changed(file: Path, change: Change) -> None:
    with closing(apsw.Connection(str(file))) as connection:
        change(connection)


def _row(connection: apsw.Connection, seq: int) -> tuple[str, bytes]:
    (row,) = connection.execute("SELECT id, sealed FROM items WHERE seq = ?", (seq,)).fetchall()
    name, sealed = row
    assert isinstance(name, str)
    assert isinstance(sealed, bytes)
    return name, sealed


def _put(connection: apsw.Connection, seq: int, name: str, sealed: bytes) -> None:
    """Replaces a row as somebody would who knows all but the key: the checksum is right."""
    connection.execute("DELETE FROM items WHERE seq = ? OR id = ?", (seq, name))
    connection.execute("INSERT INTO items VALUES (?, ?, ?, ?)", (seq, name, sealed, checksum(seq, name, sealed)))


def _swap_contents(connection: apsw.Connection) -> None:
    (one, first), (other, second) = _row(connection, 2), _row(connection, 3)
    _put(connection, 2, one, second)
    _put(connection, 3, other, first)


def _swap_rows(connection: apsw.Connection) -> None:
    one, other = _row(connection, 2), _row(connection, 3)
    _put(connection, 2, *other)
    _put(connection, 3, *one)


def _swap_names(connection: apsw.Connection) -> None:
    (one, first), (other, second) = _row(connection, 2), _row(connection, 3)
    _put(connection, 2, other, first)
    _put(connection, 3, one, second)


def _change_a_bit(connection: apsw.Connection) -> None:
    name, sealed = _row(connection, 2)
    _put(connection, 2, name, sealed[:-40] + bytes([sealed[-40] ^ 1]) + sealed[-39:])


def _shorten(connection: apsw.Connection) -> None:
    name, _ = _row(connection, 2)
    _put(connection, 2, name, b"short")


@pytest.mark.parametrize("change", [_swap_contents, _swap_rows, _swap_names, _change_a_bit, _shorten])
def test_a_row_that_is_not_in_its_place_is_damage(tmp_path: Path, change: Change) -> None:
    file = _made(tmp_path)
    _changed(file, change)
    with closing(Store(file, keyring=KEYRING)) as store, pytest.raises(DataLoss, match="item number 2"):
        list(store.scan())


def test_a_row_of_another_collection_is_damage(tmp_path: Path) -> None:
    file = _made(tmp_path)
    with closing(apsw.Connection(str(_made(tmp_path, CollectionSpec("others", 4, Metric.DOT))))) as others:
        name, sealed = _row(others, 2)
    _changed(file, lambda connection: _put(connection, 2, name, sealed))
    with closing(Store(file, keyring=KEYRING)) as store, pytest.raises(DataLoss, match="item number 2"):
        list(store.scan())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE collection SET id = 'others'",
        "UPDATE collection SET dimension = 3",
        "UPDATE collection SET metric = 'cosine'",
        "UPDATE collection SET model_digest = 'sha256:01'",
        "UPDATE seal SET salt = zeroblob(32)",
        "UPDATE seal SET proof = zeroblob(28)",
        "UPDATE seal SET key_id = 1",
        "DELETE FROM seal",
        "UPDATE ingests SET batch = 9 WHERE batch = 3",
        "UPDATE ingests SET sealed = zeroblob(40)",
        "DROP TABLE seal",
    ],
)
def test_a_head_that_was_changed_is_damage(tmp_path: Path, statement: str) -> None:
    file = _made(tmp_path)
    _changed(file, lambda connection: connection.execute(statement).close())
    with pytest.raises(DataLoss, match="Collection `things` is damaged"):
        Store(file, keyring=KEYRING)


def test_a_store_without_its_key_is_refused_and_not_called_damaged(tmp_path: Path) -> None:
    file = _made(tmp_path)
    before = file.read_bytes()
    for keyring in (None, Keyring(new_key())):
        with pytest.raises(FailedPrecondition, match=f"is encrypted with the key {KEYRING.primary.id}, and") as refused:
            Store(file, keyring=keyring)
        assert refused.value.reason == "KEY_MISSING"
    assert file.read_bytes() == before


def test_any_key_of_the_keyring_opens_what_it_sealed(tmp_path: Path) -> None:
    file = _made(tmp_path)
    rotated = KEYRING.with_primary(new_key())
    with closing(Store(file, keyring=rotated)) as store:
        assert store.key_id == KEYRING.primary.id
        assert [item.id for items in store.scan() for item in items] == ["i1", "i2", "i3", "i4", "i5"]


def test_neither_content_nor_name_looks_the_same_in_two_stores(tmp_path: Path) -> None:
    with (
        closing(apsw.Connection(str(_made(tmp_path)))) as one,
        closing(apsw.Connection(str(_made(tmp_path, CollectionSpec("others", 4, Metric.DOT))))) as other,
    ):
        rows = [row for connection in (one, other) for row in connection.execute("SELECT id, sealed FROM items")]
    assert len({name for name, _ in rows}) == len({sealed for _, sealed in rows}) == 10


def test_a_plain_store_is_of_version_1_whatever_keyring_opens_it(tmp_path: Path) -> None:
    file = tmp_path / "things" / FILE_NAME
    file.parent.mkdir()
    Store.create(file, SPEC)
    with closing(Store(file, keyring=KEYRING)) as store:
        store.commit(Changes([], [_stored(1, "i1")], {}, next_seq=2, item_count=1))
        assert store.key_id is None
    with closing(apsw.Connection(str(file))) as connection:
        assert connection.execute("SELECT schema_version FROM collection").fetchall() == [(1,)]
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        assert tables == [("collection",), ("ingests",), ("items",), ("snapshots",)]
        assert connection.execute("SELECT id, metadata FROM items").fetchall() == [("i1", b'{"n":1}')]


OPTIONS = CollectionOptions(
    graph=GraphParameters(links=8, build_width=40), policy=IndexPolicy(graph_from=100, patience=20), keyring=KEYRING
)


def _vectors(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A closed, encrypted collection with a graph's file of many pieces."""
    monkeypatch.setattr(files, "PIECE", 4096)
    folder = tmp_path / "people"
    folder.mkdir()
    Store.create(folder / FILE_NAME, CollectionSpec("people", 8, Metric.EUCLIDEAN), key=KEYRING.primary)
    with closing(Collection(folder, OPTIONS)) as collection:
        collection.upsert([NewItem(f"i{n}", vector) for n, vector in enumerate(_vectors(300))])
        assert collection.wait_indexed(60)
    return folder


_WHOLE = 4096 + OVERHEAD


def _outside(folder: Path) -> bytes:
    """Returns what is on record beside the graph's file, as it is stored."""
    with closing(apsw.Connection(str(folder / FILE_NAME))) as connection:
        ((outside,),) = connection.execute("SELECT outside FROM snapshots").fetchall()
    assert isinstance(outside, bytes)
    return outside


def _put_on_record(folder: Path, graph: Path, outside: bytes) -> None:
    """Puts a graph's file on record with what lies beside it, as somebody would who knows all but the key."""
    known = (digest_of(graph, outside), graph.stat().st_size, outside)
    _changed(
        folder / FILE_NAME,
        lambda connection: connection.execute("UPDATE snapshots SET sha256 = ?, size = ?, outside = ?", known).close(),
    )


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda sealed: sealed[: 3 * _WHOLE], id="cut between pieces"),
        pytest.param(lambda sealed: sealed[_WHOLE : 2 * _WHOLE] + sealed[:_WHOLE] + sealed[2 * _WHOLE :], id="swapped"),
    ],
)
def test_a_graph_whose_pieces_were_moved_is_built_anew_though_its_digest_is_right(
    folder: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    (graph,) = folder.glob("graph-*")
    graph.write_bytes(damage(graph.read_bytes()))
    _put_on_record(folder, graph, _outside(folder))
    with closing(Collection(folder, OPTIONS)) as collection:
        assert f"ignoring snapshot {graph.name}: `{graph.name}` is not what was sealed there" in caplog.text
        assert collection.wait_indexed(60)
        assert collection.status().indexed_count == 300
        found = collection.search(_vectors(300)[:9], SearchOptions(1))
        assert [one[0].id for one in found] == [f"i{n}" for n in range(9)]


def test_a_graph_that_is_said_to_hold_more_than_it_does_is_not_used(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _changed(folder / FILE_NAME, lambda connection: connection.execute("UPDATE snapshots SET last_seq = 9").close())
    with closing(Collection(folder, OPTIONS)) as collection:
        assert "is not what was sealed there" in caplog.text
        assert collection.wait_indexed(60)


@pytest.mark.parametrize("key", [None, KEYRING.primary], ids=["plain", "sealed"])
def test_which_items_are_copies_lies_plainly_only_where_all_does(
    key: Key | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    folder = data / COLLECTIONS / "people"
    folder.mkdir(parents=True)
    Store.create(folder / FILE_NAME, CollectionSpec("people", 8, Metric.EUCLIDEAN), key=key)
    vectors = np.tile(_vectors(50), (6, 1))  # of each four are in the graph
    with closing(Collection(folder, replace(OPTIONS, allow_plain=True))) as collection:
        collection.upsert([NewItem(f"i{n}", vector) for n, vector in enumerate(vectors)])
        assert collection.wait_indexed(60)
    copies = {seq.to_bytes(8, "little") for seq in range(201, 301)}
    outside = _outside(folder)
    assert sum(seq in outside for seq in copies) == (100 if key is None else 0)
    assert len(outside) % 8 == (0 if key is None else OVERHEAD % 8)

    # It comes along to another key, and with it the graph.
    (done,) = rekey(data, KEYRING.with_primary(other := new_key()))
    assert isinstance(done, Rekeyed)
    assert done.after == other.id
    assert not copies & {_outside(folder)[at : at + 8] for at in range(len(outside))}
    monkeypatch.setattr(HnswIndex, "add", None)
    with closing(Collection(folder, replace(OPTIONS, keyring=Keyring(other)))) as collection:
        assert collection.status().indexed_count == 300
        assert all(len(found) == 2 for found in collection.search(vectors[:9], SearchOptions(2)))


def test_what_is_on_record_beside_a_graph_is_read_there_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (graph,) = folder.glob("graph-*")
    sealed = _outside(folder)
    for outside, what in ((bytes(len(sealed)), "What is on record beside it"), (bytes(80), f"`{graph.name}`")):
        _put_on_record(folder, graph, outside)
        with closing(Store(folder / FILE_NAME, keyring=KEYRING)) as store:
            assert load(folder, store, OPTIONS.graph, alive=np.arange(1, 301)) is None
        assert f"{graph.name}: {what} is not what was sealed there" in caplog.text


def test_a_sealed_graph_is_taken_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HnswIndex, "add", None)  # nothing is left to be added
    with closing(Collection(folder, OPTIONS)) as collection:
        assert collection.status().indexed_count == 300


def test_a_purge_erases_what_was_sealed(folder: Path) -> None:
    with closing(apsw.Connection(str(folder / FILE_NAME))) as connection:
        _, sealed = _row(connection, 8)

    def holding(within: Path) -> set[str]:
        parts = [sealed[at : at + 8] for at in range(0, len(sealed) - 8, 4)]
        return {file.name for file in within.iterdir() if any(part in file.read_bytes() for part in parts)}

    assert holding(folder) == {FILE_NAME}
    with closing(Collection(folder, OPTIONS)) as collection:
        assert collection.delete(["i7"], purge=True) == [True]
        assert holding(copied_in_use(folder, folder.parent / "copy")) == set()
        assert collection.get(["i7", "i8"])[0] is None
    assert holding(folder) == set()
