import dataclasses
import random
from pathlib import Path

import apsw
import numpy as np
import pytest

from few_files import few_files_left
from twinsight_core.errors import DataLoss, StorageFull, Unavailable
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec
from twinsight_core.sealing.keyring import Keyring, new_key
from twinsight_core.storage.records import Changes, SnapshotRecord, StoredItem
from twinsight_core.storage.sqlite import transaction, translated
from twinsight_core.storage.store import Store

SPEC = CollectionSpec("things", 4, Metric.DOT, "base", "sha256:00", 12.5)


def _file(tmp_path: Path) -> Path:
    (tmp_path / "things").mkdir(exist_ok=True)
    return tmp_path / "things" / "store.db"


def _stored(seq: int, name: str) -> StoredItem:
    return StoredItem(seq, name, np.full(4, seq, "<f4").tobytes(), b'{"n":%d}' % seq)


def _made(tmp_path: Path, count: int = 0, *, keyring: Keyring | None = None) -> Store:
    file = _file(tmp_path)
    Store.create(file, SPEC, key=None if keyring is None else keyring.primary)
    store = Store(file, keyring=keyring)
    if count:
        items = [_stored(seq, f"i{seq}") for seq in range(1, count + 1)]
        store.commit(Changes([], items, {"bulk": 3}, next_seq=count + 1, item_count=count))
    return store


def _all(store: Store) -> list[StoredItem]:
    return [item for items in store.scan() for item in items]


@pytest.fixture(params=["plain", "encrypted"])
def keyring(request: pytest.FixtureRequest) -> Keyring | None:
    """What the store is encrypted with, if it is."""
    return None if request.param == "plain" else Keyring(new_key())


class FullDisk(apsw.VFS):
    """A disk on which writing fails at will, as the system's does when it is full."""

    full = False

    def __init__(self) -> None:
        super().__init__("full-disk", base="")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _FullDiskFile(name, flags)


class _FullDiskFile(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if FullDisk.full:
            raise apsw.FullError
        super().xWrite(data, offset)


def test_a_new_store_is_empty_and_knows_its_collection(tmp_path: Path, keyring: Keyring | None) -> None:
    store = _made(tmp_path, keyring=keyring)
    assert store.spec == SPEC
    assert (store.next_seq, store.item_count, store.ingests, _all(store)) == (1, 0, {}, [])
    store.close()


def test_what_was_committed_is_there_after_opening_again(tmp_path: Path, keyring: Keyring | None) -> None:
    store = _made(tmp_path, 5, keyring=keyring)
    store.commit(Changes([2, 3], [_stored(9, "i2")], {"bulk": 4}, next_seq=10, item_count=4))
    store.close()
    assert not _file(tmp_path).with_name("store.db-wal").exists()
    store = Store(_file(tmp_path), keyring=keyring)
    assert (store.next_seq, store.item_count, store.ingests) == (10, 4, {"bulk": 4})
    assert _all(store) == [_stored(1, "i1"), _stored(4, "i4"), _stored(5, "i5"), _stored(9, "i2")]
    assert store.by_id(["i2", "nobody", "i1", "i2"]) == [_stored(9, "i2"), None, _stored(1, "i1"), _stored(9, "i2")]
    assert store.by_seq([4, 2]) == [_stored(4, "i4"), None]
    (first,) = store.after("", 1)
    (name,) = store.form.names([first.id])
    assert sorted([first, *store.after(name, 9)]) == _all(store)
    assert store.names_after("", 9) == [(name, first.seq), *store.names_after(name, 9)]
    store.close()


def test_writes_are_synced(tmp_path: Path) -> None:
    store = _made(tmp_path)
    pragmas = {
        name: store._writer.execute(f"PRAGMA {name}").fetchall()[0][0]
        for name in ("journal_mode", "synchronous", "page_size")
    }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "page_size": 16384}
    store.close()


def test_a_store_of_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    _made(tmp_path, 1).close()
    file = _file(tmp_path)
    other = apsw.Connection(str(file))
    other.execute("UPDATE collection SET schema_version = 3; ALTER TABLE collection ADD COLUMN more ANY")
    other.close()
    before = file.read_bytes()
    with pytest.raises(DataLoss) as refused:
        Store(file)
    assert refused.value.message == (
        "Collection `things` was written by a later version of twinsight (store version 3; this one reads up to 2); "
        "nothing was changed."
    )
    assert refused.value.reason == "STORE_TOO_NEW"
    assert file.read_bytes() == before


def test_a_missing_file_is_data_loss_and_is_not_made(tmp_path: Path) -> None:
    file = _file(tmp_path)
    with pytest.raises(DataLoss, match="Collection `things` is damaged: its file is missing"):
        Store(file)
    assert not file.exists()


@pytest.mark.parametrize("content", [b"", b"no database at all" * 1000])
def test_a_file_that_is_no_store_is_data_loss(tmp_path: Path, content: bytes) -> None:
    _file(tmp_path).write_bytes(content)
    with pytest.raises(DataLoss, match=r"Nothing was deleted; restore its folder from a backup\."):
        Store(_file(tmp_path))
    assert _file(tmp_path).read_bytes() == content


def test_no_damage_to_the_file_passes_for_data(tmp_path: Path, keyring: Keyring | None) -> None:
    store = _made(tmp_path, 400, keyring=keyring)
    truth = _all(store)
    store.close()
    file = _file(tmp_path)
    sound = file.read_bytes()
    rng = random.Random(0)
    noticed = 0
    for trial in range(45):
        damaged = bytearray(sound)
        at = rng.randrange(len(sound))
        if trial % 3 == 0:
            damaged[at] ^= 1 << rng.randrange(8)
        elif trial % 3 == 1:
            damaged[at : at + 4096] = bytes(len(damaged[at : at + 4096]))
        else:
            del damaged[at:]
        file.write_bytes(damaged)
        try:
            store = Store(file, keyring=keyring)
            try:
                assert _all(store) == truth
            finally:
                store.close()
        except DataLoss:
            noticed += 1
    assert noticed > 15


def test_a_row_that_was_changed_behind_our_back_is_noticed(tmp_path: Path) -> None:
    _made(tmp_path, 3).close()
    other = apsw.Connection(str(_file(tmp_path)))
    other.execute("UPDATE items SET metadata = CAST('{}' AS BLOB) WHERE seq = 2")
    other.close()
    store = Store(_file(tmp_path))
    assert store.by_id(["i1"]) == [_stored(1, "i1")]
    for read in (
        lambda: store.by_id(["i2"]),
        lambda: store.by_seq([2]),
        lambda: store.after("", 9),
        lambda: _all(store),
    ):
        with pytest.raises(DataLoss, match="item number 2 does not match its checksum"):
            read()
    store.close()


def test_an_id_that_is_no_text_any_more_is_noticed(tmp_path: Path, keyring: Keyring | None) -> None:
    _made(tmp_path, 3, keyring=keyring).close()
    other = apsw.Connection(str(_file(tmp_path)))
    other.execute("UPDATE items SET id = CAST(x'ff' AS TEXT) WHERE seq = 2")
    other.close()
    store = Store(_file(tmp_path), keyring=keyring)
    with pytest.raises(DataLoss, match="Collection `things` is damaged"):
        _all(store)
    store.close()


def test_a_row_that_is_gone_is_noticed(tmp_path: Path, keyring: Keyring | None) -> None:
    _made(tmp_path, 3, keyring=keyring).close()
    other = apsw.Connection(str(_file(tmp_path)))
    other.execute("DELETE FROM items WHERE seq = 2")
    other.close()
    store = Store(_file(tmp_path), keyring=keyring)
    with pytest.raises(DataLoss, match="2 of 3 items, up to number 3, can be read"):
        _all(store)
    store.close()


def test_a_full_disk_refuses_the_whole_write_and_reading_goes_on(tmp_path: Path) -> None:
    vfs = FullDisk()
    file = _file(tmp_path)
    Store.create(file, SPEC, vfs="full-disk")
    store = Store(file, vfs="full-disk")
    first = Changes([], [_stored(1, "a")], {}, next_seq=2, item_count=1)
    store.commit(first)
    FullDisk.full = True
    try:
        with pytest.raises(StorageFull, match=r"The disk has no room; nothing of the call was written\."):
            store.commit(Changes([1], [_stored(2, "b"), _stored(3, "c")], {}, next_seq=4, item_count=2))
        assert _all(store) == [_stored(1, "a")]
    finally:
        FullDisk.full = False
    store.commit(Changes([], [_stored(2, "b")], {}, next_seq=3, item_count=2))
    store.close()
    store = Store(file)
    assert _all(store) == [_stored(1, "a"), _stored(2, "b")]
    store.close()
    vfs.unregister()


def test_a_full_disk_is_told_as_such_when_sqlite_has_rolled_back_by_itself() -> None:
    connection = apsw.Connection("")

    def fill() -> None:
        with translated(Path("store.db")), transaction(connection):
            connection.execute("ROLLBACK")  # as SQLite does where a statement, not a commit, finds no room
            raise apsw.FullError

    with pytest.raises(StorageFull):
        fill()
    with transaction(connection):
        connection.execute("CREATE TABLE made (n)")
    assert not connection.in_transaction
    connection.close()


class BadDisk(apsw.VFS):
    """A disk that fails to write, or to sync what was written, at will."""

    fails = ""

    def __init__(self) -> None:
        super().__init__("bad-disk", base="")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _BadDiskFile(name, flags)


class _BadDiskFile(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if BadDisk.fails == "write":
            raise _io_error(apsw.SQLITE_IOERR_WRITE)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if BadDisk.fails == "sync":
            raise _io_error(apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)


def _io_error(code: int) -> apsw.IOError:
    error = apsw.IOError("disk I/O error")
    error.extendedresult = code  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # not in its stubs
    return error


@pytest.mark.parametrize("fails", ["write", "sync"])
def test_a_disk_that_fails_to_write_refuses_the_write_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    vfs = BadDisk()
    file = _file(tmp_path)
    Store.create(file, SPEC, vfs="bad-disk")
    store = Store(file, vfs="bad-disk")
    store.commit(Changes([], [_stored(1, "a")], {}, next_seq=2, item_count=1))
    with monkeypatch.context() as patch:
        patch.setattr(BadDisk, "fails", fails)
        with pytest.raises(StorageFull) as refused:
            store.commit(Changes([1], [_stored(2, "b")], {"bulk": 1}, next_seq=3, item_count=1))
        assert refused.value.message == "Writing to the disk failed; nothing of the call was written."
        assert refused.value.reason == "DISK_WRITE_FAILED"
        assert _all(store) == [_stored(1, "a")]
    store.commit(Changes([], [_stored(2, "c")], {}, next_seq=3, item_count=2))
    store.close()
    store = Store(file)
    assert (_all(store), store.ingests) == ([_stored(1, "a"), _stored(2, "c")], {})
    store.close()
    vfs.unregister()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (apsw.SQLITE_IOERR_TRUNCATE, StorageFull),
        (apsw.SQLITE_IOERR_SHMSIZE, StorageFull),
        (apsw.SQLITE_IOERR_READ, DataLoss),
        (apsw.SQLITE_IOERR_SHORT_READ, DataLoss),
        (apsw.SQLITE_IOERR, DataLoss),
        (apsw.SQLITE_IOERR_LOCK, Unavailable),
    ],
)
def test_of_the_errors_of_a_disk_those_of_reading_alone_are_data_loss(
    tmp_path: Path, code: int, kind: type[Exception]
) -> None:
    with pytest.raises(kind), translated(_file(tmp_path)):
        raise _io_error(code)


def test_running_out_of_file_descriptors_is_no_damage(tmp_path: Path) -> None:
    store = _made(tmp_path, 1)
    with few_files_left(1), pytest.raises(Unavailable, match="No more files can be opened: the process has") as refused:
        store.by_id(["i1"])
    assert refused.value.reason == "OPEN_FILES_EXHAUSTED"
    assert store.by_id(["i1"]) == [_stored(1, "i1")]
    store.close()


def test_a_file_that_may_not_be_written_is_no_damage(tmp_path: Path) -> None:
    store = _made(tmp_path, 1)
    store._writer.execute("PRAGMA query_only = ON")
    with pytest.raises(Unavailable) as refused:
        store.commit(Changes([], [_stored(2, "b")], {}, next_seq=3, item_count=2))
    assert refused.value.message == "Collection `things`: its file may not be written."
    assert refused.value.reason == "COLLECTION_READ_ONLY"
    store._writer.execute("PRAGMA query_only = OFF")
    store.commit(Changes([], [_stored(2, "b")], {}, next_seq=3, item_count=2))
    assert len(_all(store)) == 2
    store.close()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (apsw.PermissionsError("no"), "COLLECTION_READ_ONLY"),
        (apsw.InterruptError("why"), "COLLECTION_UNAVAILABLE"),
        (apsw.NoMemError("why"), "COLLECTION_UNAVAILABLE"),
    ],
)
def test_no_error_of_sqlite_is_passed_on_in_its_own_words(tmp_path: Path, error: apsw.Error, reason: str) -> None:
    with pytest.raises(Unavailable, match="Collection `things`: its file") as refused, translated(_file(tmp_path)):
        raise error
    assert refused.value.reason == reason
    assert str(error) not in refused.value.message.split()


def test_the_newest_snapshots_stay_on_record(tmp_path: Path) -> None:
    store = _made(tmp_path)
    records = [SnapshotRecord(f"graph-{i:012d}.hnsw", i, "00", i, "hnswlib 0", 16, 200, b"12") for i in (9, 10, 11)]
    for record in records:
        store.record_snapshot(record, keep=2)
    assert store.snapshots() == [records[2], records[1]]
    store.close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = _made(tmp_path)
    store.close()
    with pytest.raises(Unavailable, match="Collection `things` is closed"):
        store.by_id(["a"])


def test_specs_of_every_metric_come_back(tmp_path: Path) -> None:
    for metric in Metric:
        spec = dataclasses.replace(SPEC, id=metric.value, metric=metric)
        Store.create(tmp_path / metric.value, spec)
        store = Store(tmp_path / metric.value)
        assert store.spec == spec
        store.close()
