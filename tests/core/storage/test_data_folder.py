"""A data folder is made, taken and tidied in one way, whoever uses it: a server, `restore` or `rekey`."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from twinsight_core.collections.catalog import Catalog
from twinsight_core.errors import DataLoss, StartupError
from twinsight_core.items import CollectionSpec
from twinsight_core.sealing.keyring import Keyring, new_key
from twinsight_core.storage import data_folder
from twinsight_core.storage.backups import back_up
from twinsight_core.storage.rekeying import Failed, Rekeyed, rekey
from twinsight_core.storage.restoring import restore
from twinsight_core.storage.store import FILE_NAME

Using = Callable[[Path], None]


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup of an empty collection `a`."""
    with closing(Catalog(tmp_path / "origin")) as catalog:
        catalog.create(CollectionSpec("a", 2))
    back_up(tmp_path / "origin", tmp_path / "backup")
    return tmp_path / "backup"


@pytest.fixture(params=["served", "restored"])
def use(request: pytest.FixtureRequest, backup: Path) -> Using:
    """Uses a data folder, which is made if there is none, as a server does or as `restore` does."""
    if request.param == "served":
        return lambda data: Catalog(data).close()

    def restored(data: Path) -> None:
        restore(backup, data, replace=True)

    return restored


def test_the_names_of_new_folders_are_made_durable(tmp_path: Path, use: Using, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(data_folder, "sync_folder", synced.append)
    data = tmp_path / "new" / "data"
    use(data)
    assert set(synced) - {data / "collections"} == {tmp_path, tmp_path / "new", data}
    synced.clear()
    # Made, perhaps, by a start that was killed before it had made the name durable.
    use(data)
    assert set(synced) - {data / "collections"} == {data}


def test_what_is_stored_is_for_the_server_alone_to_read(tmp_path: Path, use: Using) -> None:
    use(tmp_path / "data")
    for folder in (tmp_path / "data", tmp_path / "data" / "collections"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_foreign_folder_that_may_not_be_looked_into_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk's own `lost+found` is root's."""
    look = os.stat

    def not_inside(path: Path | str | int, **how: bool) -> os.stat_result:
        if "lost+found/" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, **how)

    (tmp_path / "lost+found").mkdir()
    (tmp_path / "photos").mkdir()
    monkeypatch.setattr(os, "stat", not_inside)
    assert data_folder.collection_folders(tmp_path) == [tmp_path / "photos"]
    assert "ignoring folder 'lost+found'" in caplog.text


def test_a_folder_in_use_is_refused_also_where_its_lock_file_is_gone(tmp_path: Path, use: Using) -> None:
    data = tmp_path / "data"
    with closing(Catalog(data)):
        (data / "LOCK").unlink()
        with pytest.raises(StartupError, match=r"data` is in use by another server\."):
            use(data)
    use(data)


def test_where_folders_can_not_be_locked_the_lock_file_alone_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, refused = fcntl.flock, list[bool]()

    def files_alone(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refused.append(True)
            raise OSError(errno.EBADF, "Bad file descriptor")
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", files_alone)
    with data_folder.taken(tmp_path), pytest.raises(StartupError, match="is in use by another server"):
        data_folder.taken(tmp_path)
    assert len(refused) == 2
    data_folder.taken(tmp_path).close()


def test_releases_that_go_by_the_lock_file_keep_a_folder_and_are_kept_out(tmp_path: Path, use: Using) -> None:
    data = tmp_path / "data"
    with closing(Catalog(data)), (data / "LOCK").open("r+b") as older, pytest.raises(BlockingIOError):
        fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (data / "LOCK").open("r+b") as older:
        fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for _ in range(2):  # what was refused holds nothing
            with pytest.raises(StartupError, match=r"data` is in use by another server\."):
                use(data)
    use(data)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A data folder with the collections `a`, which is a link to a folder elsewhere, and `b`."""
    data = tmp_path / "data"
    with closing(Catalog(data)) as catalog:
        for name in ("a", "b"):
            catalog.create(CollectionSpec(name, 2))
    (data / "collections" / "a").rename(tmp_path / "elsewhere")
    (data / "collections" / "a").symlink_to(tmp_path / "elsewhere")
    return data


LINKED = (
    "Collection `a` can't be used: its folder is a symbolic link, and must be a real folder in `collections`. "
    "Nothing was changed; stop the server and move the folder to the link's place."
)


def _check_link(data: Path) -> None:
    assert sorted(one.name for one in (data / "collections").iterdir()) == ["a", "b"]
    assert (data / "collections" / "a").is_symlink()
    assert (data.parent / "elsewhere" / FILE_NAME).exists()


def test_a_collection_that_is_a_link_is_refused_alone_and_is_not_deleted(linked: Path) -> None:
    with closing(Catalog(linked)) as catalog:
        assert catalog.get("b").spec.dimension == 2
        for use in (catalog.get, catalog.delete):
            with pytest.raises(DataLoss) as refused:
                use("a")
            assert (refused.value.message, refused.value.reason) == (LINKED, "COLLECTION_LINKED")
    _check_link(linked)
    (linked / "collections" / "a").unlink()
    (linked.parent / "elsewhere").rename(linked / "collections" / "a")
    with closing(Catalog(linked)) as catalog:
        catalog.delete("a")
        assert [name for name, _ in catalog.list()] == ["b"]


def test_a_collection_that_became_a_link_while_it_was_open_is_not_deleted(linked: Path) -> None:
    folder = linked / "collections" / "b"
    with closing(Catalog(linked)) as catalog:
        folder.rename(linked / "moved")
        folder.symlink_to(linked / "moved")
        with pytest.raises(DataLoss, match="Collection `b` can't be used: its folder is a symbolic link"):
            catalog.delete("b")
        assert catalog.get("b").status().item_count == 0


def test_a_collection_whose_file_is_a_link_is_refused_and_its_data_not_left_behind(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "large-disk.db"
    with closing(Catalog(data)) as catalog:
        catalog.create(CollectionSpec("a", 2))
    file = data / "collections" / "a" / FILE_NAME
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with closing(Catalog(data)) as catalog:
        for use in (catalog.get, catalog.delete):
            with pytest.raises(DataLoss, match=r"its file is a symbolic link, .* a real file in `collections/a`"):
                use("a")
    assert elsewhere.exists()
    (failed,) = rekey(data, Keyring(new_key()))
    assert isinstance(failed, Failed)
    assert "its file is a symbolic link" in str(failed)


def test_a_link_that_leads_nowhere_is_refused_too(linked: Path) -> None:
    (linked.parent / "elsewhere").rename(linked.parent / "unmounted")
    with closing(Catalog(linked)) as catalog, pytest.raises(DataLoss, match="Collection `a` can't be used"):
        catalog.get("a")


def test_a_collection_that_is_a_link_is_neither_replaced_nor_encrypted(linked: Path, backup: Path) -> None:
    with pytest.raises(DataLoss) as refused:
        restore(backup, linked, replace=True)
    assert refused.value.message == LINKED
    _check_link(linked)
    first, second = rekey(linked, Keyring(new_key()))
    assert isinstance(first, Failed)
    assert first.error.message == LINKED
    assert isinstance(second, Rekeyed)
    assert (second.before, second.after is None) == (None, False)
    _check_link(linked)


@pytest.mark.parametrize("name", [".new-x", ".deleted-x", ".replaced-a"])
def test_leftovers_that_are_no_folders_are_removed_and_nothing_they_lead_to(
    tmp_path: Path, use: Using, name: str
) -> None:
    data = tmp_path / "data"
    with closing(Catalog(data)) as catalog:
        catalog.create(CollectionSpec("a", 2))
    kept = tmp_path / "kept"
    kept.mkdir()
    leftover = data / "collections" / name
    (data / "collections" / ".replaced-none").touch()
    for link in (False, True):
        if link:
            leftover.symlink_to(kept)
        else:
            leftover.touch()
        use(data)
        assert [one.name for one in (data / "collections").iterdir()] == ["a"]
    assert kept.is_dir()


def _failing(path: Path) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_a_deletion_whose_removal_fails_says_so_and_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data" / "collections"
    with closing(Catalog(tmp_path / "data")) as catalog:
        catalog.create(CollectionSpec("a", 2))
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", _failing)
            with pytest.raises(PermissionError, match=r"\.deleted-a"):
                catalog.delete("a")
        assert [name for name, _ in catalog.list()] == ["a"]
        catalog.delete("a")
        assert catalog.list() == []
    assert list(root.iterdir()) == []


def test_what_was_replaced_and_can_not_be_removed_is_told(
    linked: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = linked / "collections" / "a"
    place.unlink()
    place.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", _failing)
        with pytest.raises(PermissionError, match=r"\.replaced-a"):
            restore(backup, linked, replace=True)
    assert (place / FILE_NAME).exists()
    assert (linked / "collections" / ".replaced-a").exists()
    Catalog(linked).close()
    assert sorted(one.name for one in (linked / "collections").iterdir()) == ["a", "b"]


def test_what_a_failure_leaves_is_told_in_the_log(
    linked: Path, backup: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (backup / "a" / FILE_NAME).write_bytes(b"damaged")
    monkeypatch.setattr(shutil, "rmtree", _failing)
    with pytest.raises(DataLoss, match="is damaged"):
        restore(backup, linked.parent / "other")
    place = linked.parent / "other" / "collections" / ".new-a"
    (message,) = caplog.messages
    assert message.startswith(f"can't remove `{place}`: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("fresh", [True, False])
def test_what_root_restores_or_encrypts_belongs_to_the_owner_of_the_data_folder(
    backup: Path, tmp_path: Path, fresh: bool
) -> None:
    data = tmp_path / "data"
    if fresh:
        data.mkdir()
        os.chown(data, 65532, 65531)
    else:
        Catalog(data).close()
        for one in (data, *data.rglob("*")):
            os.chown(one, 65532, 65531)

    def owners() -> set[tuple[int, int]]:
        return {(one.stat().st_uid, one.stat().st_gid) for one in (data, *data.rglob("*"))}

    restore(backup, data)
    assert (data / "collections" / "a" / FILE_NAME).exists()
    assert owners() == {(65532, 65531)}
    restore(backup, data, replace=True)
    rekey(data, Keyring(new_key()))
    assert owners() == {(65532, 65531)}
