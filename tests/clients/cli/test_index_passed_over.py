"""What `twinsight index` says of what it does not take."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.cli.conftest import Twinsight
from twinsight_client.cli.pictures import OTHER_SUFFIXES, SUFFIXES, find_pictures

pytestmark = pytest.mark.client


@pytest.fixture
def mixed(tmp_path: Path, picture: Callable[[int], bytes]) -> Path:
    """One picture among files of other kinds, hidden ones, and links."""
    root, elsewhere = tmp_path / "mixed", tmp_path / "elsewhere"
    for folder in (root / "sub", root / ".hidden", elsewhere):
        folder.mkdir(parents=True)
    names = ("a.jpg", "sub/1.HEIC", "2.heic", "x.gif", ".x.gif", ".hidden/y.gif", "notes.txt", "gif", ".bmp")
    for name in names:
        (root / name).write_bytes(picture(1))
    (elsewhere / "b.jpg").write_bytes(picture(2))
    (root / "sub" / "trip").symlink_to(elsewhere)
    (root / ".link").symlink_to(elsewhere)
    (root / "c.jpg").symlink_to(elsewhere / "b.jpg")
    return root


def test_pictures_that_are_not_taken_and_links_to_folders_are_counted(twinsight: Twinsight, mixed: Path) -> None:
    result = twinsight("index", mixed)
    assert (result.exit_code, result.stderr) == (0, "ignored: 2 .heic, 1 .gif, 1 linked folder\n")
    report = json.loads(twinsight("index", mixed, "--json").stdout)
    assert (report["found"], report["unchanged"], report["skipped"]) == (2, 2, [])
    assert (report["passed_over"], report["linked_folders"]) == ({".gif": 1, ".heic": 2}, ["sub/trip"])


def test_a_folder_without_any_picture_that_is_taken_says_what_there_is(twinsight: Twinsight, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tmp_path / "there")
    result = twinsight("index", tmp_path)
    assert (result.exit_code, result.stderr) == (0, "ignored: 2 linked folders\n")


def test_nothing_is_said_where_nothing_is_passed_over(
    twinsight: Twinsight, tmp_path: Path, picture: Callable[[int], bytes]
) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "notes.txt").write_text("no picture")
    assert twinsight("index", tmp_path).stderr == ""
    assert find_pictures(tmp_path).passed_over == {}


def test_a_folder_that_may_be_listed_but_not_looked_at_ends_no_run(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mixed / "sub" / "deep").mkdir()
    look, look_at_links = os.stat, os.lstat

    def refuse(path: object) -> None:
        if str(path) == str(mixed / "sub" / "deep"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def locked(path: str | Path, *, follow_symlinks: bool = True) -> os.stat_result:
        refuse(path)
        return look(path, follow_symlinks=follow_symlinks)

    def locked_links(path: str | Path) -> os.stat_result:
        refuse(path)
        return look_at_links(path)

    monkeypatch.setattr(os, "stat", locked)
    monkeypatch.setattr(os, "lstat", locked_links)
    assert find_pictures(mixed).linked_folders == ("sub/trip",)


def test_no_suffix_is_both_taken_and_passed_over() -> None:
    assert not SUFFIXES & OTHER_SUFFIXES
