"""What a store says of its collection and of bulk writes has one checksum, in the number that SQLite keeps for us."""

from contextlib import closing
from pathlib import Path

import apsw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.errors import DataLoss
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec
from twinsight_core.sealing.keyring import Keyring, new_key
from twinsight_core.storage.backups import entry_of
from twinsight_core.storage.layout import check_state, state_sum, write_state_sum
from twinsight_core.storage.records import Changes, StoredItem
from twinsight_core.storage.salvaging import salvage
from twinsight_core.storage.store import FILE_NAME, Store

SPEC = CollectionSpec("things", 4, Metric.DOT, "base", "sha256:00", 12.0)
REFUSAL = "its head, or the record of its bulk writes, does not match the checksum"


@pytest.fixture(params=["plain", "encrypted"])
def keyring(request: pytest.FixtureRequest) -> Keyring | None:
    return None if request.param == "plain" else Keyring(new_key())


@pytest.fixture
def file(tmp_path: Path, keyring: Keyring | None) -> Path:
    """A closed store with two items and two bulk writes."""
    made = tmp_path / "collections" / "things" / FILE_NAME
    made.parent.mkdir(parents=True)
    Store.create(made, SPEC, key=None if keyring is None else keyring.primary)
    with closing(Store(made, keyring=keyring)) as store:
        items = [StoredItem(seq, f"i{seq}", np.full(4, seq, "<f4").tobytes(), b"{}") for seq in (1, 2)]
        store.commit(Changes([], items, {"nightly-ingest": 3, "bulk": 7}, next_seq=3, item_count=2))
    return made


def _changed(file: Path, statement: str) -> None:
    with closing(apsw.Connection(str(file))) as other:
        other.execute(statement)


def _recorded(file: Path) -> object:
    with closing(apsw.Connection(str(file))) as other:
        return other.execute("PRAGMA application_id").fetchall()[0][0]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ingests SET batch = batch | 64 WHERE batch = 3",
        "DELETE FROM ingests WHERE batch = 3",
        "UPDATE ingests SET batch = batch + 1",
        "UPDATE collection SET next_seq = next_seq | (1 << 40)",
        "UPDATE collection SET model_digest = 'sha256:01'",
        "UPDATE collection SET created_at = 13",
        "PRAGMA application_id = 1",
    ],
)
def test_a_change_behind_our_back_is_noticed(file: Path, keyring: Keyring | None, statement: str) -> None:
    _changed(file, statement)
    with pytest.raises(DataLoss) as refused:
        Store(file, keyring=keyring)
    assert refused.value.reason == "COLLECTION_DAMAGED"
    with pytest.raises(DataLoss, match=REFUSAL):
        entry_of(file)  # as a backup's, and as what is restored


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE collection SET dimension = 0",
        "UPDATE collection SET dimension = -1",
        "UPDATE collection SET dimension = 1 << 40",
        "UPDATE collection SET created_at = 9e999",
        "UPDATE collection SET created_at = -1e18",
        "UPDATE collection SET item_count = -1",
    ],
)
def test_a_head_that_was_never_written_here_is_refused_whatever_its_sum(
    file: Path, keyring: Keyring | None, statement: str
) -> None:
    with closing(apsw.Connection(str(file))) as connection, connection:
        connection.execute(statement)
        write_state_sum(connection, state_sum(connection))
    with pytest.raises(DataLoss, match="its head can't be read"):
        Store(file, keyring=keyring)
    with pytest.raises(DataLoss, match="its head can't be read"):
        entry_of(file)


def test_a_bit_that_is_turned_in_the_number_of_a_batch_loses_no_later_batch(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    Store.create(file, SPEC)
    with closing(Store(file)) as store:
        store.commit(Changes([], [], {"nightly-ingest": 3}, next_seq=1, item_count=0))
    content = bytearray(file.read_bytes())
    at = content.index(b"nightly-ingest") + len(b"nightly-ingest")
    assert content[at] == 3
    content[at] ^= 0x40
    file.write_bytes(content)
    with pytest.raises(DataLoss, match=REFUSAL):
        Store(file)


def test_one_bit_turned_in_two_rows_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    Store.create(file, SPEC)
    with closing(Store(file)) as store:
        store.commit(Changes([], [], {"a": 3, "b": 3}, next_seq=1, item_count=0))
    _changed(file, "UPDATE ingests SET batch = 2")
    with pytest.raises(DataLoss, match=REFUSAL):
        Store(file)


@settings(max_examples=8, deadline=None)
@given(
    commits=st.lists(
        st.dictionaries(st.sampled_from(["a", "b", "ä", "x'y", "\U0001f4f7"]), st.integers(1, 2**63 - 1)), max_size=5
    )
)
def test_what_is_kept_by_changes_is_that_of_all_rows(
    tmp_path_factory: pytest.TempPathFactory, commits: list[dict[str, int]]
) -> None:
    for keyring in (None, Keyring(new_key())):
        file = tmp_path_factory.mktemp("state") / FILE_NAME
        Store.create(file, SPEC, key=None if keyring is None else keyring.primary)
        with closing(Store(file, keyring=keyring)) as store:
            for number, ingests in enumerate(commits):
                store.commit(Changes([], [], ingests, next_seq=number + 2, item_count=0))
        with closing(Store(file, keyring=keyring)) as store:
            assert store._state_sum == state_sum(store._writer)
            assert store.ingests == {name: batch for ingests in commits for name, batch in ingests.items()}
        assert _recorded(file) != 0


def test_a_write_that_fails_changes_it_no_more_than_the_rows(file: Path, keyring: Keyring | None) -> None:
    with closing(Store(file, keyring=keyring)) as store:
        taken = StoredItem(9, "i1", bytes(16), b"{}")  # whose id is there
        with pytest.raises(DataLoss):
            store.commit(Changes([], [taken], {"bulk": 8}, next_seq=10, item_count=3))
        store.commit(Changes([2], [], {"bulk": 9}, next_seq=3, item_count=1))
    with closing(Store(file, keyring=keyring)) as store:
        assert store.ingests == {"nightly-ingest": 3, "bulk": 9}


def test_a_file_from_before_there_was_one_gets_it_with_the_next_write(file: Path, keyring: Keyring | None) -> None:
    _changed(file, "PRAGMA application_id = 0")
    entry_of(file)
    with closing(Store(file, keyring=keyring)) as store:
        store.commit(Changes([], [], {"bulk": 8}, next_seq=3, item_count=2))
    assert _recorded(file) != 0
    Store(file, keyring=keyring).close()
    _changed(file, "UPDATE collection SET next_seq = 4")
    with pytest.raises(DataLoss, match=REFUSAL):
        Store(file, keyring=keyring)


@pytest.mark.parametrize(("total", "recorded"), [(0, 1), (1, 1), (2**31, -(2**31)), (2**32 - 1, -1)])
def test_it_is_never_written_as_none(tmp_path: Path, total: int, recorded: int) -> None:
    with closing(apsw.Connection(str(tmp_path / "any.db"))) as connection:
        write_state_sum(connection, total)
        connection.execute("VACUUM")  # as a purge does, and a backup
        assert connection.execute("PRAGMA application_id").fetchall() == [(recorded,)]


def test_salvage_goes_on_without_the_bulk_writes_and_says_so(
    file: Path, tmp_path: Path, keyring: Keyring | None
) -> None:
    sound = salvage(tmp_path, "things", tmp_path / "sound")
    assert (sound.state_sound, sound.forgotten, sound.entry.next_seq) == (True, 0, 3)
    _changed(file, "UPDATE collection SET next_seq = next_seq | (1 << 40)")
    done = salvage(tmp_path, "things", tmp_path / "saved")
    assert (done.state_sound, done.forgotten, done.entry.item_count, done.entry.next_seq) == (False, 2, 2, 3)
    with closing(Store(tmp_path / "saved" / "things" / FILE_NAME, keyring=keyring)) as store:
        check_state(store._writer, file)
        assert (store.ingests, sorted(item.seq for item in store.after("", 9))) == ({}, [1, 2])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE collection SET item_count = item_count | (1 << 20)",
        "UPDATE collection SET item_count = -1",
        "UPDATE collection SET next_seq = -3",
        "UPDATE collection SET created_at = -1e18",
        "UPDATE collection SET created_at = 9e999",
    ],
)
def test_salvage_needs_neither_numbers_nor_time_of_the_head(
    file: Path, tmp_path: Path, keyring: Keyring | None, statement: str
) -> None:
    _changed(file, statement)
    done = salvage(tmp_path, "things", tmp_path / "saved")
    assert (done.state_sound, done.entry.item_count) == (False, 2)
    if keyring is not None and "created_at" in statement:
        with pytest.raises(DataLoss, match="its head is not the one that was sealed"):
            Store(tmp_path / "saved" / "things" / FILE_NAME, keyring=keyring)
        return
    with closing(Store(tmp_path / "saved" / "things" / FILE_NAME, keyring=keyring)) as store:
        assert sorted(item.seq for item in store.after("", 9)) == [1, 2]


def test_salvage_of_an_empty_collection_ends_whatever_its_head_says(file: Path, tmp_path: Path) -> None:
    _changed(file, "DELETE FROM items; UPDATE collection SET next_seq = 1 << 40, item_count = 0")
    done = salvage(tmp_path, "things", tmp_path / "saved")
    assert (done.entry.item_count, done.entry.next_seq) == (0, 1)
