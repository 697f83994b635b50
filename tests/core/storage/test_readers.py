"""How many connections read a database at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import apsw
import pytest

from twinsight_core.errors import Unavailable
from twinsight_core.storage import sqlite
from twinsight_core.storage.sqlite import Readers

MOST = 4


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A database that, as a store's, stays open."""
    path = tmp_path / "store.db"
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1)").fetchall()
        yield path


@pytest.fixture
def further(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Room for two connections beside the first of each database."""
    made = threading.Semaphore(2)
    monkeypatch.setattr(sqlite, "_further_readers", lambda: made)
    return made


def free(places: threading.Semaphore) -> int:
    """How many places are free; takes them all, and gives them back."""
    count = 0
    while places.acquire(blocking=False):
        count += 1
    if count:
        places.release(count)
    return count


def files_of(path: Path) -> int:
    links = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return sum(link.name.startswith(path.name) and link.parent == path.parent for link in links)


def lent(readers: Readers, count: int) -> ExitStack:
    """Borrows some connections, and returns what gives them back."""
    with ExitStack() as borrowed:
        for _ in range(count):
            borrowed.enter_context(readers.one())
        return borrowed.pop_all()


def test_however_many_read_at_once_few_files_are_open(file: Path) -> None:
    before = files_of(file)
    with closing(Readers(file, None)) as readers:
        together = threading.Barrier(MOST)

        def read(_: int) -> None:
            with readers.one() as reader:
                together.wait(20)
                assert reader.execute("SELECT a FROM t").fetchall() == [(1,)]

        with ThreadPoolExecutor(4 * MOST) as threads:
            list(threads.map(read, range(4 * MOST)))
        assert files_of(file) == before + 2 * MOST


def test_databases_share_what_there_is_beyond_the_first_of_each(file: Path, further: threading.Semaphore) -> None:
    with closing(Readers(file, None)) as greedy, closing(Readers(file, None)) as other:
        with ThreadPoolExecutor(1) as threads:
            with lent(greedy, 3), lent(other, 1):
                assert free(further) == 0
                waiting = threads.submit(lent, other, 1)
                with pytest.raises(TimeoutError):
                    waiting.result(0.1)
            waiting.result(60).close()
        assert free(further) == 0
        greedy.close()
        assert free(further) == 2
        lent(other, 3).close()
        assert free(further) == 0
    assert free(further) == 2


def test_who_waits_when_the_readers_are_closed_is_told(file: Path, further: threading.Semaphore) -> None:
    readers = Readers(file, None)
    with ThreadPoolExecutor(1) as threads:
        borrowed = lent(readers, 3)
        waiting = threads.submit(lent, readers, 1)
        readers.close()
        with pytest.raises(Unavailable, match="is closed"):
            waiting.result(60)
    assert free(further) == 0
    borrowed.close()
    assert free(further) == 2


def test_one_that_can_t_be_opened_takes_no_place(tmp_path: Path, further: threading.Semaphore) -> None:
    readers = Readers(tmp_path / "missing.db", None)
    for _ in range(2 * MOST):
        with pytest.raises(apsw.CantOpenError):
            lent(readers, 1)
    assert free(further) == 2
    apsw.Connection(str(tmp_path / "missing.db")).close()
    lent(readers, 3).close()
    assert free(further) == 0
    readers.close()
    assert free(further) == 2


def test_a_database_that_is_deleted_while_it_is_opened_is_closed_and_not_damaged(
    file: Path, further: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = Readers(file, None)
    connect = sqlite.connect

    def late(path: Path, flags: int, vfs: str | None) -> apsw.Connection:
        readers.close()
        path.unlink()
        return connect(path, flags, vfs)

    monkeypatch.setattr(sqlite, "connect", late)
    with pytest.raises(Unavailable) as refused:
        lent(readers, 1)
    assert refused.value.reason == "COLLECTION_CLOSED"
    assert free(further) == 2


def test_who_opens_a_file_while_it_is_closed_reads_nothing_of_what_takes_its_place(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers, connect = Readers(file, None), sqlite.connect

    def after_closing(path: Path, flags: int, vfs: str | None) -> apsw.Connection:
        readers.close()
        return connect(path, flags, vfs)

    monkeypatch.setattr(sqlite, "connect", after_closing)
    with pytest.raises(Unavailable), readers.one():
        pass
