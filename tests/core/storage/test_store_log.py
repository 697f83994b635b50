"""The log of a store beside reads: it is folded into the file where it has become large."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import apsw
import numpy as np
import pytest

from twinsight_core.items import CollectionSpec
from twinsight_core.storage.records import Changes, StoredItem
from twinsight_core.storage.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store whose log is large from 1 MiB on."""
    monkeypatch.setattr("twinsight_core.storage.store._LOG_BYTES", 1 << 20)
    Store.create(tmp_path / "store.db", CollectionSpec("things", 4))
    with closing(Store(tmp_path / "store.db")) as opened:
        yield opened


def _log_bytes(store: Store) -> int:
    return store._file.with_name("store.db-wal").stat().st_size


def _replace(store: Store, times: int) -> list[int]:
    """Writes an item anew, about 200 KB each time; returns the log's bytes after each."""
    sizes: list[int] = []
    for seq in range(store.next_seq, store.next_seq + times):
        item = StoredItem(seq, "large", np.zeros(4, "<f4").tobytes(), b"%200000d" % seq)
        store.commit(Changes([seq - 1] if seq > 1 else [], [item], {}, next_seq=seq + 1, item_count=1))
        store.fold_log()
        sizes.append(_log_bytes(store))
    return sizes


def _reading(store: Store) -> apsw.Connection:
    return apsw.Connection(str(store._file), flags=apsw.SQLITE_OPEN_READONLY)


def _begun(connection: apsw.Connection) -> Iterator[object]:
    """Returns a read that has begun, and goes on until it is exhausted."""
    rows = iter(connection.execute("SELECT seq FROM items UNION ALL VALUES (0)"))
    next(rows)
    return rows


def test_it_does_not_grow_for_ever_beside_reads_that_overlap(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinsight_core.storage.store._FOLD_MS", 60_000)  # whatever else the machine does
    store._writer.execute("PRAGMA wal_autocheckpoint = 16")  # which alone does not keep the log from growing
    _replace(store, 1)
    begun, stop = threading.Event(), threading.Event()

    def read() -> None:
        """Each read is short, and at no moment there is none."""
        with closing(_reading(store)) as one, closing(_reading(store)) as other:
            going = _begun(one)
            begun.set()
            for connection in itertools.cycle((other, one)):
                after = _begun(connection)
                list(going)
                going = after
                if stop.is_set():
                    return

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            assert begun.wait(60)
            sizes = _replace(store, 60)
        finally:
            stop.set()
        reader.result()
    assert max(sizes) < 2 << 20
    assert sizes.count(0) > 5


def test_a_long_read_keeps_it_and_fails_no_commit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinsight_core.storage.store._FOLD_MS", 1)
    _replace(store, 1)
    empty, tries = Store._empty_log, 0

    def counted(self: Store) -> bool:
        nonlocal tries
        tries += 1
        return empty(self)

    monkeypatch.setattr(Store, "_empty_log", counted)
    with closing(_reading(store)) as other:
        reader = _begun(other)
        assert _replace(store, 10)[-1] > 1 << 20
        assert tries == 1  # the next comes some seconds later
        list(reader)
    monkeypatch.setattr(store, "_fold_from_s", 0.0)
    store.fold_log()
    assert _log_bytes(store) == 0
    assert [item.seq for item in store.after("", 9)] == [11]


def test_a_full_disk_keeps_it_and_fails_no_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: Store) -> bool:
        raise apsw.FullError

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_empty_log", full)
        assert _replace(store, 10)[-1] > 1 << 20
    assert caplog.text.count("collection `things`: can't fold its log into its file") == 1
    monkeypatch.setattr(store, "_fold_from_s", 0.0)
    assert _replace(store, 1) == [0]
