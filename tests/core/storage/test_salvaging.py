import itertools
import random
import shutil
from contextlib import closing
from pathlib import Path

import apsw
import numpy as np
import pytest
from click.testing import CliRunner

from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import CollectionOptions
from twinsight_core.commands.salvage import salvage as salvage_command
from twinsight_core.errors import AlreadyExists, DataLoss, NotFound
from twinsight_core.index.base import Metric
from twinsight_core.items import Checkpoint, CollectionSpec, NewItem, SearchOptions
from twinsight_core.sealing.keyring import Keyring, new_key
from twinsight_core.storage import salvaging
from twinsight_core.storage.records import Changes
from twinsight_core.storage.restoring import restore
from twinsight_core.storage.salvaging import salvage
from twinsight_core.storage.sqlite import distrust
from twinsight_core.storage.store import FILE_NAME, Store

DIMENSION, COUNT, PAGE = 64, 3000, 16384
KEYRING = Keyring(new_key())
OPTIONS = CollectionOptions(keyring=KEYRING, allow_plain=True)
SPEC = CollectionSpec("things", DIMENSION, Metric.EUCLIDEAN, "base", "sha256:1", 5.0)


def _vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(COUNT, DIMENSION)).astype(np.float32)


@pytest.fixture(scope="module", params=["plain", "encrypted"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed data folder whose collection `things` lacks `i100` to `i199`; beside it is `other`."""
    data = tmp_path_factory.mktemp("sound") / "data"
    with closing(Catalog(data, options=None if request.param == "plain" else OPTIONS)) as catalog:
        collection = catalog.create(SPEC)
        items = [NewItem(f"i{n}", vector, {"n": n}) for n, vector in enumerate(_vectors())]
        for batch in range(3):
            collection.upsert(items[1000 * batch : 1000 * (batch + 1)], checkpoint=Checkpoint("bulk", 1 + batch))
        collection.delete([f"i{n}" for n in range(100, 200)])
        catalog.create(CollectionSpec("other", 2)).upsert([NewItem("a", np.ones(2, np.float32))])
    return data


@pytest.fixture
def data(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "data"))


def _file(data: Path) -> Path:
    return data / "collections" / "things" / FILE_NAME


def _root_page(file: Path, table: str) -> int:
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    (found,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchall()
    connection.close()
    assert isinstance(found[0], int)
    return found[0]


def _ruin(file: Path, pages: list[int], seed: int = 0) -> None:
    """Writes garbage over pages, counted from 1."""
    with file.open("r+b") as content:
        for page in pages:
            content.seek((page - 1) * PAGE)
            content.write(random.Random(seed + page).randbytes(PAGE))


def _leaves(file: Path) -> dict[int, int]:
    """Returns the pages that hold rows, in the order of these, and how many each holds."""
    query = "SELECT pageno, ncell FROM dbstat WHERE name = 'items' AND pagetype = 'leaf' ORDER BY path"
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    rows = connection.execute(query).fetchall()
    connection.close()
    return {page: count for page, count in rows if isinstance(page, int) and isinstance(count, int)}


def _served(data: Path) -> set[str]:
    """Returns the ids of `things`, after checking that each is as it was written and is found."""
    with closing(Catalog(data, options=OPTIONS)) as catalog:
        collection = catalog.get("things")
        assert collection.spec == SPEC
        page, after = collection.page(after="", limit=COUNT, include_vectors=True)
        assert after is None
        vectors = _vectors()
        for item in page:
            assert item.vector is not None
            assert item.metadata == {"n": int(item.id[1:])}
            assert np.array_equal(item.vector, vectors[int(item.id[1:])])
        found = collection.search(vectors[[int(item.id[1:]) for item in page[::97]]], SearchOptions(1, exact=True))
        assert [one[0].id for one in found] == [item.id for item in page[::97]]
        return {item.id for item in page}


ALL = {f"i{n}" for n in range(COUNT) if not 100 <= n < 200}


@pytest.mark.parametrize("count", [1, 3, 10])
def test_all_but_the_rows_of_ruined_pages_comes_back(data: Path, tmp_path: Path, count: int) -> None:
    leaves = _leaves(_file(data))
    _ruin(_file(data), random.Random(count).sample([*leaves], count))
    with closing(Catalog(data, options=OPTIONS)) as catalog:
        with pytest.raises(DataLoss, match="Collection `things` is damaged"):
            catalog.get("things")
        assert catalog.get("other").status().item_count == 1
        before = _file(data).read_bytes()
        done = salvage(data, "things", tmp_path / "saved")  # beside the server
        assert _file(data).read_bytes() == before
    restore(tmp_path / "saved", data, replace=True)
    there = _served(data)
    assert there < ALL
    assert (done.item_count, done.entry.item_count) == (len(ALL), len(there))
    assert 0 < len(ALL) - len(there) <= count * 2 * len(ALL) // len(leaves)
    assert done.forgotten == 1
    with closing(Catalog(data, options=OPTIONS)) as catalog:
        assert catalog.get("things").last_batch("bulk") == 0


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_ruined_sector_costs_no_more_than_its_page(data: Path, tmp_path: Path, sector: int) -> None:
    leaves = sorted(_leaves(_file(data)))
    content = _file(data).read_bytes()
    fullest = COUNT // (len(leaves) - 1) + 10
    for number, page in enumerate(leaves[:: max(1, len(leaves) // 12)]):
        rng = random.Random(number)
        at = (page - 1) * PAGE + sector * rng.randrange(1, PAGE // sector)
        _file(data).write_bytes(content[:at] + rng.randbytes(sector) + content[at + sector :])
        done = salvage(data, "things", tmp_path / f"saved{number}")
        assert 0 <= done.item_count - done.entry.item_count <= fullest
        if not number % 4:
            restore(tmp_path / f"saved{number}", tmp_path / f"back{number}")
            assert len(_served(tmp_path / f"back{number}")) == done.entry.item_count


@pytest.mark.parametrize("table", ["sqlite_autoindex_items_1", "ingests", "snapshots"])
def test_damage_beside_the_rows_loses_none_of_them(data: Path, tmp_path: Path, table: str) -> None:
    _ruin(_file(data), [_root_page(_file(data), table)])
    done = salvage(data, "things", tmp_path / "saved")
    assert (done.entry.item_count, done.item_count, done.mismatched, done.forgotten) == (len(ALL), len(ALL), 0, 0)
    restore(tmp_path / "saved", data, replace=True)
    assert _served(data) == ALL
    with closing(Catalog(data, options=OPTIONS)) as catalog:
        assert catalog.get("things").last_batch("bulk") == (0 if table == "ingests" else 3)


def test_a_row_that_was_changed_is_left_out(data: Path, tmp_path: Path) -> None:
    other = apsw.Connection(str(_file(data)))
    other.execute("UPDATE items SET crc = crc + 1 WHERE seq IN (8, 9)")
    other.close()
    done = salvage(data, "things", tmp_path / "saved")
    assert (done.entry.item_count, done.mismatched) == (len(ALL) - 2, 2)
    restore(tmp_path / "saved", data, replace=True)
    assert _served(data) == ALL - {"i7", "i8"}


@pytest.mark.parametrize("ruined", [False, True])
def test_numbers_that_lie_far_apart_are_passed_over(data: Path, tmp_path: Path, ruined: bool) -> None:
    """As those of a collection whose items are replaced all the time."""
    with closing(Store(_file(data), keyring=KEYRING)) as store:
        (last,) = store.by_id([f"i{COUNT - 1}"])
        assert last is not None
        moved = last._replace(seq=2**45)
        store.commit(Changes([last.seq], [moved], {}, next_seq=2**45 + 1, item_count=store.item_count))
    if ruined:
        _ruin(_file(data), [*_leaves(_file(data))][1:3])
    done = salvage(data, "things", tmp_path / "saved")
    restore(tmp_path / "saved", data, replace=True)
    there = _served(data)
    assert f"i{COUNT - 1}" in there
    assert len(there) == done.entry.item_count
    assert (there == ALL) is not ruined


@pytest.mark.parametrize("apart", [1, 2**32])
def test_only_the_rows_of_ruined_pages_are_lost_however_far_apart_their_numbers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: int
) -> None:
    with closing(Store(_file(data), keyring=KEYRING)) as store:
        rows = [row for row in store.by_id([f"i{n}" for n in range(COUNT)]) if row is not None]
        spread = [row._replace(seq=COUNT + apart * (place + 1)) for place, row in enumerate(rows)]
        next_seq = spread[-1].seq + 1
        store.commit(Changes([row.seq for row in rows], spread, {}, next_seq=next_seq, item_count=len(rows)))
    leaves = _leaves(_file(data))
    ruined = [*leaves][3:-3:2]
    at, lost = 0, set[str]()
    for page, count in leaves.items():
        lost |= {row.id for row in rows[at : at + count]} if page in ruined else set()
        at += count
    _ruin(_file(data), ruined)
    queries = itertools.count()

    def distrusted_and_limited(source: apsw.Connection) -> None:
        distrust(source)
        source.exec_trace = lambda *_: next(queries) < 10 * len(lost)

    monkeypatch.setattr(salvaging, "distrust", distrusted_and_limited)
    done = salvage(data, "things", tmp_path / "saved")
    assert done.entry.item_count == len(rows) - len(lost) > 1000
    restore(tmp_path / "saved", data, replace=True)
    assert _served(data) == ALL - lost


def test_a_file_that_was_cut_off_gives_what_is_before(data: Path, tmp_path: Path) -> None:
    size = _file(data).stat().st_size
    with _file(data).open("r+b") as content:
        content.truncate(size // 2)
    done = salvage(data, "things", tmp_path / "saved")
    assert 0 < done.entry.item_count < len(ALL)
    restore(tmp_path / "saved", data, replace=True)
    assert _served(data) < ALL


def test_of_a_ruined_root_nothing_comes_back_and_nothing_is_made_up(data: Path, tmp_path: Path) -> None:
    _ruin(_file(data), [_root_page(_file(data), "items")])
    done = salvage(data, "things", tmp_path / "saved")
    assert (done.entry.item_count, done.item_count) == (0, len(ALL))


@pytest.mark.parametrize("page", ["first", "head"])
def test_without_its_head_a_collection_is_not_salvaged(data: Path, tmp_path: Path, page: str) -> None:
    _ruin(_file(data), [1 if page == "first" else _root_page(_file(data), "collection")])
    with pytest.raises(DataLoss, match="Collection `things` is damaged"):
        salvage(data, "things", tmp_path / "saved")
    assert not [path for path in tmp_path.iterdir() if "saved" in path.name]


def test_a_sound_collection_is_salvaged_whole(data: Path, tmp_path: Path) -> None:
    done = salvage(data, "things", tmp_path / "saved")
    assert (done.entry.item_count, done.mismatched, done.forgotten) == (len(ALL), 0, 0)
    with pytest.raises(AlreadyExists):
        salvage(data, "things", tmp_path / "saved")
    with pytest.raises(NotFound, match="has no collection `nothing`"):
        salvage(data, "nothing", tmp_path / "more")


def test_damage_that_is_met_while_serving_is_of_that_collection_alone(data: Path) -> None:
    with closing(Catalog(data, options=OPTIONS)) as catalog:
        writer = Store(_file(data), keyring=KEYRING)  # in this process: SQLite knows of it
        writer._writer.execute("UPDATE items SET crc = crc + 1 WHERE seq = 8")
        writer.close()
        things = catalog.get("things")
        assert things.get(["i8"]) != [None]
        for _ in range(2):
            with pytest.raises(DataLoss, match="item number 8 does not match its checksum"):
                things.get(["i7"])
        with pytest.raises(DataLoss):
            things.upsert([NewItem("new", _vectors()[0])])
        other = catalog.get("other")
        other.upsert([NewItem("b", np.ones(2, np.float32))])
        assert other.delete(["a"], purge=True) == [True]
        assert other.search(np.ones((1, 2), np.float32), SearchOptions(2))[0][0].id == "b"


def test_the_command_says_what_is_lost(data: Path, tmp_path: Path) -> None:
    _ruin(_file(data), [*_leaves(_file(data))][:1])
    arguments = ["things", "--data-dir", str(data), "--out", str(tmp_path / "saved")]
    done = CliRunner().invoke(salvage_command, arguments)
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'saved' / 'things'}: ")
    assert f" of {len(ALL)} items, " in first
    assert second == "1 bulk writes are no longer on record: run them again to write what was lost."
    again = CliRunner().invoke(salvage_command, arguments)
    assert (again.exit_code, again.stderr) == (
        1,
        f"twinsight: `{tmp_path / 'saved'}` already exists; nothing was written.\n",
    )
