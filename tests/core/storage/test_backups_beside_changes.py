"""Backups of collections that are replaced while they are copied."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import apsw
import numpy as np
import pytest

from twinsight_core.collections.catalog import Catalog
from twinsight_core.errors import Unavailable
from twinsight_core.items import CollectionSpec, NewItem
from twinsight_core.storage import backups
from twinsight_core.storage.backups import back_up
from twinsight_core.storage.sqlite import connect


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with `a` and `b`, and beside it another `b`, of two items."""
    for folder, count in ((tmp_path / "data", 1), (tmp_path / "other", 2)):
        with closing(Catalog(folder)) as catalog:
            for name in "ab":
                items = [NewItem(str(number), np.ones(4, np.float32)) for number in range(count)]
                catalog.create(CollectionSpec(name, 4)).upsert(items)
    return tmp_path / "data"


def replacing(data: Path, monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """Has `b` replaced whenever it is opened to be copied, so many times."""
    left, place = [None] * times, data / "collections" / "b"

    def opened(file: Path, flags: int, vfs: str | None) -> apsw.Connection:
        connection = connect(file, flags, vfs)
        if file.parent == place and left:
            left.pop()
            new = data / "collections" / ".new-b"
            shutil.copytree(data.parent / "other" / "collections" / "b", new)
            place.rename(data / f"before-{len(left)}")
            new.rename(place)
        return connection

    monkeypatch.setattr(backups, "connect", opened)


def test_a_collection_that_is_replaced_meanwhile_is_copied_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replacing(data, monkeypatch, times=2)
    made = back_up(data, tmp_path / "backup")
    assert {entry.id: entry.item_count for entry in made.collections} == {"a": 1, "b": 2}


def test_one_that_is_replaced_each_time_is_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replacing(data, monkeypatch, times=100)
    with pytest.raises(Unavailable, match="Collection `b` was replaced each time"):
        back_up(data, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_a_replacement_that_was_cut_short_is_told_and_not_left_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "_REPLACED_WITHIN_S", 0.05)
    (data / "collections" / "b").rename(data / "collections" / ".replaced-b")
    with pytest.raises(Unavailable, match="The replacement of collection `b` was interrupted"):
        back_up(data, tmp_path / "backup")
    Catalog(data).close()
    assert [entry.id for entry in back_up(data, tmp_path / "backup").collections] == ["a", "b"]
