"""A data folder is made, taken and tidied in one way, whoever uses it: a server, `restore` or `rekey`."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from twinsight_core import data_folder
from twinsight_core.backups import back_up
from twinsight_core.catalog import Catalog
from twinsight_core.errors import StartupError
from twinsight_core.items import CollectionSpec
from twinsight_core.restoring import restore

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
    assert (tmp_path / "data" / "collections").stat().st_mode & 0o777 == 0o700


def test_a_folder_in_use_is_refused_also_where_its_lock_file_is_gone(tmp_path: Path, use: Using) -> None:
    data = tmp_path / "data"
    with closing(Catalog(data)):
        (data / "LOCK").unlink()
        with pytest.raises(StartupError, match=r"data` is in use by another server\."):
            use(data)
    use(data)


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
