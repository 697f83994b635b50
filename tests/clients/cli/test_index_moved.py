"""`twinsight index --moved-from`: the items of a folder that lies elsewhere now."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.cli.conftest import Twinsight
from twinsight_client import KEEP_VECTOR, NewItem
from twinsight_client.testing import FakeClient, MemoryServer

pytestmark = pytest.mark.client


def ids(memory: MemoryServer) -> set[str]:
    with FakeClient(memory) as client:
        return {item.id for page in client.list_items("photos") for item in page.values()}


@pytest.fixture
def moved(twinsight: Twinsight, memory: MemoryServer, tmp_path: Path, picture: Callable[[int], bytes]) -> Path:
    """A folder that was `old` when it was indexed; since then one picture has changed and one is gone."""
    old, new = tmp_path / "old", tmp_path / "new place"
    old.mkdir()
    for number, name in enumerate(("same.jpg", "changed.jpg", "gone.jpg")):
        (old / name).write_bytes(picture(number))
    assert twinsight("index", old).exit_code == 0
    with FakeClient(memory) as client:
        (stored,) = client.get_items("photos", ["changed.jpg"]).values()
        client.upsert("photos", [NewItem("changed.jpg", KEEP_VECTOR, {**stored.metadata, "label": "dress"})]).values()
    old.rename(new)
    (new / "changed.jpg").write_bytes(picture(9) + b"longer")
    (new / "gone.jpg").unlink()
    return new


def test_items_of_a_folder_that_was_moved_are_the_new_folders_and_those_of_lost_files_are_pruned(
    twinsight: Twinsight, memory: MemoryServer, moved: Path
) -> None:
    result = twinsight("index", moved, "--moved-from", f"{moved.parent}/old/", "--prune", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (report["written"], report["moved"], report["pruned"], report["skipped"]) == (2, 2, 1, [])
    assert report["moved_from"] == [str(moved.parent / "old")]
    assert ids(memory) == {"same.jpg", "changed.jpg"}
    with FakeClient(memory) as client:
        (changed,) = client.get_items("photos", ["changed.jpg"]).values()
    assert (changed.metadata["root"], changed.metadata["label"]) == (str(moved), "dress")


def test_items_that_name_no_folder_did_not_move(
    twinsight: Twinsight, memory: MemoryServer, tmp_path: Path, picture: Callable[[int], bytes]
) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    with FakeClient(memory) as client:
        client.create_collection("photos", model="fake")
        client.upsert("photos", [NewItem("a.jpg", picture(1))]).values()
    report = json.loads(twinsight("index", tmp_path, "--json").stdout)
    assert (report["written"], report["moved"], report["moved_from"]) == (1, 0, [])


def test_what_was_moved_can_be_pruned_by_a_later_run(twinsight: Twinsight, memory: MemoryServer, moved: Path) -> None:
    old = moved.parent / "old"
    first = twinsight("index", moved, "--prune")
    assert first.exit_code == 3
    assert f"If {old} was moved here, --moved-from {old} --prune deletes its items whose file is gone." in first.stderr
    assert ids(memory) == {"same.jpg", "changed.jpg", "gone.jpg"}
    later = twinsight("index", moved, "--moved-from", old, "--prune")
    assert (later.exit_code, later.stderr) == (
        0,
        "1 items moved to this folder, with their fields.\n",
    )
    assert ids(memory) == {"same.jpg", "changed.jpg"}


def test_items_of_a_folder_that_can_not_be_seen_are_never_pruned_unless_it_is_named(
    twinsight: Twinsight, memory: MemoryServer, moved: Path, picture: Callable[[int], bytes]
) -> None:
    other = moved.parent / "other"
    other.mkdir()
    (other / "x.jpg").write_bytes(picture(5))
    assert json.loads(twinsight("index", other, "--prune", "--json").stdout)["pruned"] == 0
    assert ids(memory) == {"same.jpg", "changed.jpg", "gone.jpg", "x.jpg"}
    empty = moved.parent / "empty"
    empty.mkdir()
    assert "[FOLDER_EMPTY]" in twinsight("index", empty, "--moved-from", moved.parent / "old", "--prune").stderr
    assert "gone.jpg" in ids(memory)


def test_what_is_still_in_the_old_folder_is_not_pruned(
    twinsight: Twinsight, memory: MemoryServer, moved: Path, picture: Callable[[int], bytes]
) -> None:
    old = moved.parent / "old"
    old.mkdir()
    (old / "gone.jpg").write_bytes(picture(2))
    assert json.loads(twinsight("index", moved, "--moved-from", old, "--prune", "--json").stdout)["pruned"] == 0
    assert "gone.jpg" in ids(memory)


def test_items_of_another_prefix_are_not_of_the_folder_that_was_moved(
    twinsight: Twinsight, memory: MemoryServer, moved: Path
) -> None:
    arguments = ("--moved-from", moved.parent / "old", "--prefix", "p/", "--prune", "--json")
    assert json.loads(twinsight("index", moved, *arguments).stdout)["pruned"] == 0
    assert "gone.jpg" in ids(memory)


def test_a_folder_is_found_by_the_name_that_its_items_have_and_by_where_its_links_lead(
    twinsight: Twinsight, memory: MemoryServer, moved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = moved.parent / "away"
    away.mkdir()
    (away / "up").symlink_to(moved.parent)
    monkeypatch.chdir(away)
    assert json.loads(twinsight("index", moved, "--moved-from", "up/old", "--prune", "--json").stdout)["pruned"] == 1
    assert ids(memory) == {"same.jpg", "changed.jpg"}

    (moved / "same.jpg").unlink()
    last = moved.rename(moved.parent / "last")
    moved.symlink_to(away)  # since then a link that leads elsewhere
    assert json.loads(twinsight("index", last, "--moved-from", moved, "--prune", "--json").stdout)["pruned"] == 1
    assert ids(memory) == {"changed.jpg"}


def test_a_name_that_no_item_has_is_told_and_an_empty_one_is_refused(
    twinsight: Twinsight, memory: MemoryServer, moved: Path
) -> None:
    result = twinsight("index", moved, "--moved-from", "/no/such")
    assert "Collection `photos` has no items of /no/such.\n" in result.stderr
    empty = twinsight("index", moved, "--moved-from", "", "--prune")
    assert (empty.exit_code, "--moved-from must name a folder." in empty.stderr) == (2, True)
    assert "gone.jpg" in ids(memory)
