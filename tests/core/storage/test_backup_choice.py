"""Backups of some collections: those that are sound, that are asked for, or that are not left out."""

from __future__ import annotations

import logging
import shutil
from contextlib import closing
from pathlib import Path

import apsw
import numpy as np
import pytest
from click.testing import CliRunner

from twinsight_core.collections.catalog import Catalog
from twinsight_core.commands.backup import backup as backup_command
from twinsight_core.commands.restore import restore as restore_command
from twinsight_core.commands.salvage import salvage as salvage_command
from twinsight_core.errors import DataLoss, InvalidInput, NotFound, TwinsightError, Unavailable
from twinsight_core.items import CollectionSpec, NewItem
from twinsight_core.storage import backups
from twinsight_core.storage.backups import MANIFEST, back_up, read_manifest
from twinsight_core.storage.choosing import chosen
from twinsight_core.storage.restoring import restore
from twinsight_core.storage.sqlite import no_more_files
from twinsight_core.storage.store import FILE_NAME

NAMES = ("t-1", "t-2", "t-3", "t-10", "photos")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder that no server uses."""
    with closing(Catalog(tmp_path / "data")) as catalog:
        for name in NAMES:
            catalog.create(CollectionSpec(name, 4)).upsert([NewItem("a", np.ones(4, np.float32))])
    return tmp_path / "data"


def _damage(data: Path, *names: str) -> None:
    for name in names:
        with closing(apsw.Connection(str(data / "collections" / name / FILE_NAME))) as connection:
            connection.execute("UPDATE items SET crc = crc + 1")


def _damaged(name: str) -> str:
    return (
        f"Collection `{name}` is damaged: item number 1 does not match its checksum. Nothing was deleted; "
        "restore its folder from a backup."
    )


def _ids(folder: Path) -> list[str]:
    """Returns what a backup's manifest names, which is what is in it."""
    ids = [entry.id for entry in read_manifest(folder).collections]
    assert sorted([*ids, MANIFEST]) == sorted(one.name for one in folder.iterdir())
    return ids


def test_all_damaged_collections_are_named_at_once_and_nothing_is_written(data: Path, tmp_path: Path) -> None:
    _damage(data, "t-1", "t-3")
    with pytest.raises(DataLoss) as refused:
        back_up(data, tmp_path / "backup")
    assert refused.value.lines == (
        "2 collections can't be backed up; nothing was written.",
        f"  {_damaged('t-1')}",
        f"  {_damaged('t-3')}",
    )
    assert [one.name for one in tmp_path.iterdir()] == ["data"]


def test_the_others_are_backed_up_where_that_is_asked_for(data: Path, tmp_path: Path) -> None:
    _damage(data, "t-1", "t-3")
    (data / "collections" / "t-2" / FILE_NAME).unlink()
    told: list[TwinsightError] = []
    made = back_up(data, tmp_path / "backup", on_damaged=told.append)
    assert [one.message for one in told if "its file is missing" not in one.message] == [
        _damaged("t-1"),
        _damaged("t-3"),
    ]
    assert len(told) == 3
    assert [entry.id for entry in made.collections] == _ids(tmp_path / "backup") == ["photos", "t-10"]
    assert len(restore(tmp_path / "backup", tmp_path / "other")) == 2


def test_there_is_no_backup_of_nothing(data: Path, tmp_path: Path) -> None:
    _damage(data, *NAMES)
    told: list[TwinsightError] = []
    with pytest.raises(DataLoss, match="5 collections can't be backed up; nothing was written"):
        back_up(data, tmp_path / "backup", on_damaged=told.append)
    assert told == []
    assert [one.name for one in tmp_path.iterdir()] == ["data"]


def test_one_whose_replacement_was_cut_short_is_told_of_with_the_damaged(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "_REPLACED_WITHIN_S", 0.05)
    root = data / "collections"
    (root / "t-2").rename(root / ".replaced-t-2")
    (root / ".replaced-..").mkdir()  # no collection's
    _damage(data, "t-3")
    told: list[TwinsightError] = []
    back_up(data, tmp_path / "backup", on_damaged=told.append)
    assert [type(one) for one in told] == [Unavailable, DataLoss]
    assert told[0].message.startswith("The replacement of collection `t-2` was interrupted.")
    assert _ids(tmp_path / "backup") == ["photos", "t-1", "t-10"]
    back_up(data, tmp_path / "others", only=["photos"])


def test_one_that_may_not_be_looked_into_is_told_of_with_the_damaged(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = backups._identity

    def refusing(file: Path) -> tuple[int, int] | None:
        if file.parent.name == "t-1":
            raise PermissionError(13, "Permission denied", str(file))
        return identity(file)

    monkeypatch.setattr(backups, "_identity", refusing)
    told: list[TwinsightError] = []
    back_up(data, tmp_path / "backup", on_damaged=told.append)
    assert [one.reason for one in told] == ["COLLECTION_UNREADABLE"]
    assert "t-1" not in _ids(tmp_path / "backup")


def test_what_is_wrong_with_no_collection_ends_the_backup(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise no_more_files(24)

    monkeypatch.setattr(backups, "connect", failing)
    told: list[TwinsightError] = []
    with pytest.raises(Unavailable, match="No more files can be opened"):
        back_up(data, tmp_path / "backup", on_damaged=told.append)
    assert told == []


@pytest.mark.parametrize(
    ("only", "exclude", "ids"),
    [
        ([], [], ["a", "b1", "b2", "b (1)"]),
        (["b2", "a", "a"], [], ["a", "b2"]),
        (["b?"], [], ["b1", "b2"]),
        (["b*", "a"], ["b[2-9]"], ["a", "b1", "b (1)"]),
        ([], ["b (1)"], ["a", "b1", "b2"]),
        ([], ["B1"], ["a", "b1", "b2", "b (1)"]),
    ],
)
def test_patterns_choose_and_leave_out(only: list[str], exclude: list[str], ids: list[str]) -> None:
    assert chosen(["a", "b1", "b2", "b (1)"], only=only, exclude=exclude) == ids


def test_a_choice_of_nothing_is_refused_and_an_exclusion_of_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NotFound, match=r"Collection `c\*` does not exist; available: `a`, `b`\."):
        chosen("ab", only=["a", "c*"], exclude=[])
    assert chosen("ab", only=[], exclude=["b", "c"]) == ["a"]
    for only in ([], ["a"]):
        with pytest.raises(NotFound, match=r"^No collection is left after the exclusions\.$"):
            chosen("ab", only=only, exclude=["?"])
    assert chosen("", only=[], exclude=[]) == []
    assert caplog.messages == ["no collection matches the exclusion `c`"]
    assert caplog.records[0].levelno == logging.WARNING


def test_backup_and_restore_are_of_what_the_patterns_say(data: Path, tmp_path: Path) -> None:
    _damage(data, "t-2")
    back_up(data, tmp_path / "backup", only=["t-*"], exclude=["t-2"])
    assert _ids(tmp_path / "backup") == ["t-1", "t-10", "t-3"]
    # What is left out may be missing or damaged there, too.
    shutil.rmtree(tmp_path / "backup" / "t-3")
    done = restore(tmp_path / "backup", tmp_path / "other", exclude=["t-3"])
    assert [entry.id for entry in done] == ["t-1", "t-10"]
    assert [entry.id for entry in restore(tmp_path / "backup", tmp_path / "one", only=["t-?"], exclude=["t-3"])] == [
        "t-1"
    ]


def test_the_commands_tell_what_was_left_out(data: Path, tmp_path: Path) -> None:
    _damage(data, "t-1", "t-3")
    run = CliRunner().invoke
    arguments = ["--data-dir", str(data), "--out", str(tmp_path / "backup")]
    done = run(backup_command, arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        f"twinsight: 2 collections can't be backed up; nothing was written.\n  {_damaged('t-1')}\n  {_damaged('t-3')}\n"
    )
    done = run(backup_command, [*arguments, "--skip-damaged", "--exclude", "t-1?"])
    assert done.exit_code == 3
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        f"{tmp_path / 'backup' / name}:" for name in ("photos", "t-2")
    ]
    assert done.stderr == f"twinsight: skipped: {_damaged('t-1')}\ntwinsight: skipped: {_damaged('t-3')}\n"
    done = run(backup_command, ["--data-dir", str(data), "--out", str(tmp_path / "more"), "-c", "p*", "--skip-damaged"])
    assert (done.exit_code, done.stderr) == (0, "")
    done = run(restore_command, [str(tmp_path / "backup"), "--data-dir", str(tmp_path / "other"), "--exclude", "p*"])
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'other'}: collection t-2, 1 items\n")


@pytest.mark.parametrize("place", ["data/collections/backup", "elsewhere/backup", "data/x/../collections/b/c"])
def test_a_backup_among_the_collections_is_refused(data: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "elsewhere").symlink_to(data / "collections")
    before = sorted(tmp_path.rglob("*"))
    for command, names in ((backup_command, ()), (salvage_command, ("photos",))):
        out = tmp_path / place
        done = CliRunner().invoke(command, [*names, "--data-dir", str(data), "--out", str(out)])
        assert (done.exit_code, done.stdout) == (1, "")
        where = data / "collections"
        assert done.stderr == f"twinsight: `{out}` is among the collections, in `{where}`; nothing was written.\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_backup_beside_the_place_that_collections_link_to_is_made(data: Path, tmp_path: Path) -> None:
    (data / "collections").rename(tmp_path / "disk")
    (data / "collections").symlink_to(tmp_path / "disk")
    with pytest.raises(InvalidInput) as refused:
        back_up(data, tmp_path / "disk" / "backup")
    assert refused.value.reason == "BACKUP_IN_DATA_DIR"
    assert back_up(data, tmp_path / "disk-backup").collections
    assert back_up(data, data / "backup").collections
