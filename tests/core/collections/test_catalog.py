import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import numpy as np
import pytest

from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import AlreadyExists, DataLoss, InvalidInput, NotFound, StartupError, Unavailable
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, CollectionState, NewItem, SearchOptions
from twinsight_core.sealing.keyring import Key, Keyring
from twinsight_core.storage.store import Store


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "data")
    yield opened
    opened.close()


def _fill(collection: Collection) -> None:
    collection.upsert([NewItem("a", np.ones(collection.spec.dimension, np.float32), {"n": 1})])


def _folders(tmp_path: Path) -> list[str]:
    return sorted(one.name for one in (tmp_path / "data" / "collections").iterdir())


def test_collections_are_there_after_opening_again(catalog: Catalog, tmp_path: Path) -> None:
    specs = [CollectionSpec("b", 3, Metric.DOT, "base", "sha256:1", 5.0), CollectionSpec("a", 2, Metric.COSINE)]
    for spec in specs:
        created = catalog.create(spec)
        assert created.spec == spec
        _fill(created)
    catalog.close()
    again = Catalog(tmp_path / "data")
    assert [name for name, _ in again.list()] == ["a", "b"]
    for spec in specs:
        assert again.get(spec.id).spec == spec
        assert again.get(spec.id).search(np.ones((1, spec.dimension), np.float32), SearchOptions(1))[0][0].id == "a"
    again.close()


def test_a_catalog_may_take_its_folder_now_and_open_its_collections_later(catalog: Catalog, tmp_path: Path) -> None:
    catalog.create(CollectionSpec("a", 2, Metric.COSINE))
    catalog.close()
    later = Catalog(tmp_path / "data", load=False)
    assert later.list() == []
    with pytest.raises(StartupError, match="in use"):
        Catalog(tmp_path / "data")
    later.load()
    assert [name for name, _ in later.list()] == ["a"]
    later.close()


def _locked(file: Path) -> apsw.Connection:
    """Returns a connection that keeps all others out."""
    connection = apsw.Connection(str(file))
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN IMMEDIATE; PRAGMA user_version = 0; COMMIT")
    return connection


def test_opening_the_collections_can_be_ended(catalog: Catalog, tmp_path: Path) -> None:
    for name in "abc":
        catalog.create(CollectionSpec(name, 2))
    catalog.close()
    answers = iter([False, False, True])
    with closing(Catalog(tmp_path / "data", load=False)) as stopped:
        stopped.load(lambda: next(answers))
        assert len(stopped.list()) == 2
    with closing(Catalog(tmp_path / "data")) as again:
        assert [name for name, _ in again.list()] == ["a", "b", "c"]


def test_a_collection_that_another_program_locks_stays_closed_alone(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        _fill(catalog.create(CollectionSpec(name, 2)))
    catalog.close()
    monkeypatch.setattr("twinsight_core.storage.sqlite.BUSY_MS", 1)
    file = tmp_path / "data" / "collections" / "a" / "store.db"
    with closing(_locked(file)), closing(Catalog(tmp_path / "data")) as again:
        assert again.get("b").status().item_count == 1
        with pytest.raises(DataLoss) as refused:
            again.get("a")
        assert refused.value.reason == "COLLECTION_LOCKED"
        assert refused.value.message == (
            "Collection `a` can't be opened: another program has locked its file. Nothing was deleted; end that "
            "program and restart the server."
        )
    with closing(Catalog(tmp_path / "data")) as again:
        assert again.get("a").status().item_count == 1


def test_a_lock_that_is_held_for_a_moment_is_waited_for(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(catalog.create(CollectionSpec("a", 2)))
    catalog.close()
    monkeypatch.setattr("twinsight_core.storage.sqlite.BUSY_MS", 60_000)
    other = _locked(tmp_path / "data" / "collections" / "a" / "store.db")
    letting_go = threading.Timer(0.1, other.close)
    letting_go.start()
    with closing(Catalog(tmp_path / "data")) as again:
        assert again.get("a").status().item_count == 1
    letting_go.join()


def test_a_taken_id_is_refused(catalog: Catalog) -> None:
    catalog.create(CollectionSpec("a", 2))
    with pytest.raises(AlreadyExists, match=r"Collection `a` already exists\."):
        catalog.create(CollectionSpec("a", 3))
    assert catalog.get("a").spec.dimension == 2


@pytest.mark.parametrize("content", [True, False])
def test_a_folder_that_was_put_there_since_is_kept_and_loaded_at_the_next_start(
    catalog: Catalog, tmp_path: Path, content: bool
) -> None:
    _fill(catalog.create(CollectionSpec("a", 2)))
    backup = tmp_path / "backup"
    catalog.close()
    root = tmp_path / "data" / "collections"
    (root / "a").rename(backup)
    running = Catalog(tmp_path / "data")
    if content:
        shutil.copytree(backup, root / "a")
    else:
        (root / "a").mkdir()  # over which a renaming would succeed
    with pytest.raises(AlreadyExists) as refused:
        running.create(CollectionSpec("a", 3))
    assert refused.value.message == (
        "The folder of collection `a` exists but is not open; restart the server to load it."
    )
    assert (refused.value.reason, refused.value.field) == ("COLLECTION_EXISTS", "id")
    assert _folders(tmp_path) == ["a"]
    running.close()
    if content:
        again = Catalog(tmp_path / "data")
        assert again.get("a").status().item_count == 1
        again.close()


def test_a_creation_that_fails_leaves_what_stands_in_its_way(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data" / "collections"
    create = Store.create

    def overtaken(file: Path, spec: CollectionSpec, *, vfs: str | None = None, key: Key | None = None) -> None:
        create(file, spec, vfs=vfs, key=key)
        (root / "a").mkdir()
        (root / "a" / "precious").touch()

    monkeypatch.setattr(Store, "create", overtaken)
    with pytest.raises(OSError, match="Directory not empty"):
        catalog.create(CollectionSpec("a", 2))
    assert _folders(tmp_path) == ["a"]
    assert (root / "a" / "precious").exists()


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "ä", "x" * 65, "a\n"])
def test_bad_ids_are_refused(catalog: Catalog, name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"must be 1 to 64 of A-Z, a-z, 0-9, '\.', '_' and '-'"):
        catalog.create(CollectionSpec(name, 2))
    assert _folders(tmp_path) == []


@pytest.mark.parametrize("dimension", [0, -1, 4097])
def test_bad_dimensions_are_refused(catalog: Catalog, dimension: int) -> None:
    instead = "" if dimension else "; for pictures set `model` instead"
    with pytest.raises(InvalidInput, match=rf"`dimension` \(={dimension}\) must be 1 to 4096{instead}\."):
        catalog.create(CollectionSpec("a", dimension))


def test_a_missing_collection_is_answered_with_those_that_exist(catalog: Catalog) -> None:
    catalog.create(CollectionSpec("faces", 2))
    for call in (catalog.get, catalog.delete):
        with pytest.raises(NotFound, match="Collection `shoes` does not exist; available: `faces`"):
            call("shoes")


def test_a_deleted_collection_is_gone_and_its_id_is_free(catalog: Catalog, tmp_path: Path) -> None:
    collection = catalog.create(CollectionSpec("a", 2))
    _fill(collection)
    catalog.delete("a")
    assert _folders(tmp_path) == []
    with pytest.raises(Unavailable):
        _fill(collection)
    assert catalog.create(CollectionSpec("a", 5)).status().item_count == 0


def test_leftovers_of_a_crash_are_removed_at_the_start(catalog: Catalog, tmp_path: Path) -> None:
    _fill(catalog.create(CollectionSpec("a", 2)))
    catalog.close()
    root = tmp_path / "data" / "collections"
    shutil.copytree(root / "a", root / ".new-b")
    shutil.copytree(root / "a", root / ".deleted-c")
    (root / ".new-d").mkdir()
    again = Catalog(tmp_path / "data")
    assert [name for name, _ in again.list()] == ["a"]
    assert _folders(tmp_path) == ["a"]
    again.close()


def test_one_damaged_collection_leaves_the_others_alone(catalog: Catalog, tmp_path: Path) -> None:
    for name in ("good", "ruined", "emptied"):
        _fill(catalog.create(CollectionSpec(name, 2)))
    catalog.close()
    root = tmp_path / "data" / "collections"
    (root / "ruined" / "store.db").write_bytes(b"nonsense" * 9999)
    (root / "emptied" / "store.db").unlink()
    again = Catalog(tmp_path / "data")
    assert {name: isinstance(one, DataLoss) for name, one in again.list()} == {
        "good": False,
        "ruined": True,
        "emptied": True,
    }
    for name in ("ruined", "emptied"):
        with pytest.raises(DataLoss, match=f"Collection `{name}` is damaged"):
            again.get(name)
        with pytest.raises(AlreadyExists):
            again.create(CollectionSpec(name, 2))
    assert again.get("good").status().state is CollectionState.READY
    assert (root / "ruined" / "store.db").read_bytes() == b"nonsense" * 9999
    again.delete("ruined")
    assert _folders(tmp_path) == ["emptied", "good"]
    again.close()


@pytest.mark.parametrize(("place", "mode"), [("", 0o000), ("", 0o500), ("store.db", 0o000), ("store.db-wal", 0o000)])
def test_a_collection_that_may_not_be_read_and_written_leaves_the_others_alone(
    catalog: Catalog, tmp_path: Path, place: str, mode: int
) -> None:
    for name in ("good", "locked"):
        _fill(catalog.create(CollectionSpec(name, 2)))
    catalog.close()
    folder = tmp_path / "data" / "collections" / "locked"
    barred = folder / place
    barred.touch()
    before = stat.S_IMODE(barred.stat().st_mode)
    barred.chmod(mode)
    try:
        if os.access(barred, os.R_OK | os.W_OK):
            pytest.skip("this user may read and write everything")
        again = Catalog(tmp_path / "data")
        assert again.get("good").status().item_count == 1
        with pytest.raises(DataLoss) as refused:
            again.get("locked")
        again.close()
    finally:
        barred.chmod(before)
    assert refused.value.message == (
        "Collection `locked` can't be opened: the server has no permission to read and write all of its folder. "
        "Nothing was deleted; grant it and restart the server."
    )
    assert refused.value.reason == "COLLECTION_UNREADABLE"
    last = Catalog(tmp_path / "data")
    assert last.get("locked").status().item_count == 1
    last.close()


@pytest.mark.parametrize(
    "error", [PermissionError("no"), Unavailable("Its file may not be written.", reason="COLLECTION_READ_ONLY")]
)
def test_a_collection_that_is_refused_by_the_system_leaves_the_others_alone(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for name in ("good", "locked"):
        _fill(catalog.create(CollectionSpec(name, 2)))
    catalog.close()
    opening = Store.__init__

    def barred(
        self: Store, file: Path, *, vfs: str | None = None, keyring: Keyring | None = None, allow_plain: bool = True
    ) -> None:
        if file.parent.name == "locked":
            raise error
        opening(self, file, vfs=vfs, keyring=keyring, allow_plain=allow_plain)

    monkeypatch.setattr(Store, "__init__", barred)
    again = Catalog(tmp_path / "data")
    assert again.get("good").status().item_count == 1
    with pytest.raises(DataLoss, match="Collection `locked` can't be opened: the server has no permission to read"):
        again.get("locked")
    assert _folders(tmp_path) == ["good", "locked"]
    again.close()


def test_a_collection_whose_file_is_a_folder_leaves_the_others_alone(catalog: Catalog, tmp_path: Path) -> None:
    _fill(catalog.create(CollectionSpec("good", 2)))
    catalog.close()
    (tmp_path / "data" / "collections" / "odd" / "store.db").mkdir(parents=True)
    again = Catalog(tmp_path / "data")
    assert again.get("good").status().item_count == 1
    with pytest.raises(DataLoss, match="Collection `odd` is damaged: its file is missing"):
        again.get("odd")
    again.close()


def test_a_folder_under_another_name_is_not_served(
    catalog: Catalog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(catalog.create(CollectionSpec("a", 2)))
    catalog.close()
    root = tmp_path / "data" / "collections"
    shutil.copytree(root / "a", root / "b")
    again = Catalog(tmp_path / "data")
    with pytest.raises(
        DataLoss, match="Collection `b` holds the file of collection `a`; nothing was changed"
    ) as refused:
        again.get("b")
    assert [record.getMessage() for record in caplog.records] == [refused.value.message]
    assert again.get("a").status().item_count == 1
    again.close()


def test_a_folder_in_use_is_refused_within_and_across_processes(catalog: Catalog, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pytest.raises(StartupError) as refused:
        Catalog(data)
    assert refused.value.message == f"Data folder `{data}` is in use by another server."
    program = (
        "from pathlib import Path; from twinsight_core.collections.catalog import Catalog; "
        f"Catalog(Path({str(data)!r}))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert other.returncode != 0
    assert "is in use by another server." in other.stderr
    catalog.close()
    Catalog(data).close()


def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StartupError, match=r"Data folder `.*file/data` can't be used: Not a directory\."):
        Catalog(tmp_path / "file" / "data")


def test_a_folder_whose_path_is_not_utf_8_is_refused_and_not_made(tmp_path: Path) -> None:
    data = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(StartupError, match=r"caf\\udce9' can't be used: SQLite accepts only UTF-8 paths\."):
        Catalog(data)
    assert not data.exists()


def test_a_folder_of_a_name_that_is_no_id_is_passed_over(
    catalog: Catalog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(catalog.create(CollectionSpec("a", 2)))
    catalog.close()
    root = tmp_path / "data" / "collections"
    odd = root / os.fsdecode(b"caf\xe9")
    shutil.copytree(root / "a", odd)
    (root / "lost+found").mkdir()
    shutil.copytree(root / "a", root / "a (copy)")
    again = Catalog(tmp_path / "data")
    listed = dict(again.list())
    assert listed.keys() == {"a", "a (copy)"}
    assert isinstance(listed["a (copy)"], DataLoss)  # it holds a store, which must not be lost from sight
    assert "ignoring folder 'caf\\udce9': its name is not a collection id" in caplog.messages
    told = "ignoring folder 'lost+found': it holds no collection, and its name is not a collection id"
    assert told in caplog.messages
    assert (odd / "store.db").exists()
    again.close()


def test_a_collection_that_fails_to_close_keeps_neither_the_others_nor_the_folder(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [catalog.create(CollectionSpec(name, 2)) for name in ("a", "b", "c")]

    def failing(*, until: float) -> None:
        raise RuntimeError(f"b does not close ({until})")

    with monkeypatch.context() as patched:
        patched.setattr(made[1], "close", failing)
        with pytest.raises(RuntimeError, match="b does not close"):
            catalog.close()
    for one in (made[0], made[2]):
        with pytest.raises(Unavailable):
            one.get(["a"])
    made[1].close()
    Catalog(tmp_path / "data").close()


def test_a_deletion_that_fails_can_be_done_again(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.create(CollectionSpec("a", 2))

    def failing(self: Path, target: Path) -> None:
        raise OSError(f"{self.name} can't become {target.name}")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match=r"a can't become \.deleted-a"):
            catalog.delete("a")
    assert [name for name, _ in catalog.list()] == ["a"]
    catalog.delete("a")
    assert _folders(tmp_path) == []
    assert catalog.list() == []


def test_a_collection_whose_folder_was_taken_away_can_be_deleted(catalog: Catalog, tmp_path: Path) -> None:
    catalog.create(CollectionSpec("a", 2))
    shutil.rmtree(tmp_path / "data" / "collections" / "a")
    catalog.delete("a")
    assert catalog.list() == []


def test_a_closed_catalog_says_so(catalog: Catalog) -> None:
    catalog.close()
    with pytest.raises(Unavailable, match=r"The data folder is closed\."):
        catalog.create(CollectionSpec("a", 2))
