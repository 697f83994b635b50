"""A file that has more than its tables, or others, is refused; what it holds is never run."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import numpy as np
import pytest

from twinsight_core.errors import DataLoss
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec
from twinsight_core.sealing.keyring import Keyring, new_key
from twinsight_core.storage.backups import back_up
from twinsight_core.storage.records import Changes, StoredItem
from twinsight_core.storage.restoring import restore
from twinsight_core.storage.salvaging import salvage
from twinsight_core.storage.sqlite import connect
from twinsight_core.storage.store import FILE_NAME, Store

SPEC = CollectionSpec("things", 4, Metric.DOT, "base", "sha256:00", 12.0)
KEEP = "CREATE TABLE kept (row); CREATE TRIGGER keep AFTER DELETE ON items BEGIN INSERT INTO kept VALUES (old.id); END"


@pytest.fixture(params=["plain", "encrypted"])
def keyring(request: pytest.FixtureRequest) -> Keyring | None:
    return None if request.param == "plain" else Keyring(new_key())


@pytest.fixture
def file(tmp_path: Path, keyring: Keyring | None) -> Path:
    """A closed store with two items."""
    made = tmp_path / "data" / "collections" / "things" / FILE_NAME
    made.parent.mkdir(parents=True)
    Store.create(made, SPEC, key=None if keyring is None else keyring.primary)
    with closing(Store(made, keyring=keyring)) as store:
        items = [StoredItem(seq, f"i{seq}", np.full(4, seq, "<f4").tobytes(), b"{}") for seq in (1, 2)]
        store.commit(Changes([], items, {}, next_seq=3, item_count=2))
    return made


@pytest.fixture
def other(file: Path) -> Iterator[apsw.Connection]:
    """A connection that may do anything."""
    with closing(apsw.Connection(str(file))) as connection:
        yield connection


@pytest.mark.parametrize(
    "change",
    [
        KEEP,
        "CREATE TRIGGER keep BEFORE DELETE ON items BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TABLE kept (row)",
        "CREATE INDEX kept ON items (crc)",
        "CREATE VIEW kept AS SELECT * FROM items",
        "ALTER TABLE items RENAME TO kept; CREATE VIEW items AS SELECT * FROM kept",
        "CREATE VIRTUAL TABLE kept USING fts5(row)",
        "ALTER TABLE items ADD COLUMN kept INTEGER AS (length(id))",
        "DROP TABLE snapshots",
        "ANALYZE",  # keeps samples of what is indexed
    ],
)
def test_a_file_with_other_tables_than_its_own_is_damaged(
    file: Path, tmp_path: Path, keyring: Keyring | None, other: apsw.Connection, change: str
) -> None:
    other.execute(change)
    other.close()
    before = file.read_bytes()
    for opened in (lambda: Store(file, keyring=keyring), lambda: back_up(tmp_path / "data", tmp_path / "backup")):
        with pytest.raises(
            DataLoss,
            match=r"`things` is damaged: (its file can't be read|it does not have exactly)",
        ):
            opened()
    assert file.read_bytes() == before
    assert not (tmp_path / "backup").exists()


def test_what_is_salvaged_of_such_a_file_is_its_items_alone(
    file: Path, tmp_path: Path, keyring: Keyring | None, other: apsw.Connection
) -> None:
    other.execute(KEEP)
    other.close()
    saved = salvage(tmp_path / "data", "things", tmp_path / "saved")
    assert (saved.entry.item_count, saved.mismatched, saved.state_sound) == (2, 0, True)
    restore(tmp_path / "saved", tmp_path / "data", replace=True)
    with closing(Store(file, keyring=keyring)) as store:
        assert [item.id for items in store.scan() for item in items] == ["i1", "i2"]


def test_a_trigger_that_is_put_into_an_open_file_does_not_run(
    file: Path, keyring: Keyring | None, other: apsw.Connection
) -> None:
    with closing(Store(file, keyring=keyring)) as store:
        other.execute(KEEP)
        store.commit(Changes([1], [], {}, next_seq=3, item_count=1, purge=True))
        store.erase()
        assert [item.id for items in store.scan() for item in items] == ["i2"]
        assert other.execute("SELECT * FROM kept").fetchall() == []


def test_the_tables_are_known_however_they_were_spaced(
    file: Path, keyring: Keyring | None, other: apsw.Connection
) -> None:
    other.execute("PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, ', ', ',\n    ')")
    other.close()
    Store(file, keyring=keyring).close()


def test_connections_run_nothing_that_a_file_holds(file: Path) -> None:
    with closing(connect(file, apsw.SQLITE_OPEN_READWRITE, None)) as connection:
        switches = {
            name: connection.config(getattr(apsw, f"SQLITE_DBCONFIG_{name}"), -1)
            for name in ("ENABLE_TRIGGER", "ENABLE_VIEW", "TRUSTED_SCHEMA", "DEFENSIVE")
        }
    assert switches == {"ENABLE_TRIGGER": 0, "ENABLE_VIEW": 0, "TRUSTED_SCHEMA": 0, "DEFENSIVE": 1}
