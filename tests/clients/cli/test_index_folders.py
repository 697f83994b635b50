"""`twinsight index` of several folders into one collection, and of one that was moved."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.cli.conftest import Twinsight
from twinsight_client import KEEP_VECTOR, Item, NewItem
from twinsight_client.results import MetadataValue
from twinsight_client.testing import FakeClient, MemoryServer

pytestmark = pytest.mark.client


def read(memory: MemoryServer, item_id: str) -> Item:
    with FakeClient(memory) as client:
        (item,) = client.get_items("photos", [item_id]).values()
    return item


def add_fields(memory: MemoryServer, item_id: str, **fields: MetadataValue) -> None:
    with FakeClient(memory) as client:
        client.upsert("photos", [NewItem(item_id, KEEP_VECTOR, {**read(memory, item_id).metadata, **fields})]).values()


@pytest.fixture
def hat(twinsight: Twinsight, memory: MemoryServer, tmp_path: Path, picture: Callable[[int], bytes]) -> Path:
    """A folder with a labelled hat in the collection, beside one with a shoe of the same name, and a sock."""
    for folder, name, number in (("hats", "1.jpg", 1), ("shoes", "1.jpg", 2), ("shoes", "sock.jpg", 3)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_bytes(picture(number))
        os.utime(tmp_path / folder / name, ns=(number, number))
    assert twinsight("index", tmp_path / "hats").exit_code == 0
    add_fields(memory, "1.jpg", label="hat")
    return tmp_path / "hats"


def test_a_picture_of_another_folder_does_not_take_the_place_of_one_of_the_same_name(
    twinsight: Twinsight, memory: MemoryServer, hat: Path
) -> None:
    before = read(memory, "1.jpg")
    result = twinsight("index", hat.parent / "shoes")
    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        f"skipped 1.jpg: This id belongs to another picture, 1.jpg of {hat}. [ITEM_OF_ANOTHER_PICTURE]",
        "These ids belong to pictures of other folders: --prefix keeps folders apart, --moved-from takes over the "
        "items of a moved folder, --replace replaces them.",
    ]
    assert read(memory, "1.jpg") == before
    assert read(memory, "sock.jpg").metadata["root"] == str(hat.parent / "shoes")
    assert twinsight("index", hat.parent / "shoes", "--prefix", "shoes/").exit_code == 0
    assert "label" not in read(memory, "shoes/1.jpg").metadata


def test_a_picture_that_is_to_take_the_place_of_another_does_not_take_its_fields(
    twinsight: Twinsight, memory: MemoryServer, hat: Path, picture: Callable[[int], bytes]
) -> None:
    result = twinsight("index", hat.parent / "shoes", "--replace")
    assert result.exit_code == 0
    assert result.stderr == "1 items of other folders' pictures were replaced.\n"
    taken = read(memory, "1.jpg")
    assert (taken.metadata["root"], taken.metadata.get("label")) == (str(hat.parent / "shoes"), None)
    with FakeClient(memory) as client:
        (matches,) = client.search("photos", [picture(2)], top_k=1).values()
    assert (matches[0].id, round(matches[0].score, 5)) == ("1.jpg", 1.0)
    add_fields(memory, "1.jpg", label="shoe")
    again = json.loads(twinsight("index", hat.parent / "shoes", "--replace", "--json").stdout)
    assert (again["unchanged"], again["replaced"]) == (2, 0)


def test_a_picture_that_can_not_be_read_replaces_none(twinsight: Twinsight, memory: MemoryServer, hat: Path) -> None:
    (hat.parent / "shoes" / "1.jpg").write_bytes(b"no picture")
    result = json.loads(twinsight("index", hat.parent / "shoes", "--replace", "--json").stdout)
    assert (result["replaced"], result["written"], len(result["skipped"])) == (0, 1, 1)
    assert read(memory, "1.jpg").metadata["label"] == "hat"


def test_a_folder_below_one_that_was_indexed_does_not_take_the_places_of_its_pictures(
    twinsight: Twinsight, memory: MemoryServer, hat: Path, picture: Callable[[int], bytes]
) -> None:
    (hat / "2024").mkdir()
    (hat / "2024" / "1.jpg").write_bytes(picture(4))
    assert twinsight("index", hat).exit_code == 0
    add_fields(memory, "2024/1.jpg", label="cap")
    assert twinsight("index", hat / "2024").exit_code == 3
    assert read(memory, "1.jpg").metadata["root"] == str(hat)
    (hat / "2024" / "1.jpg").write_bytes(picture(5) + b"longer")
    assert twinsight("index", hat / "2024", "--prefix", "2024/").exit_code == 0
    same_place = read(memory, "2024/1.jpg").metadata
    assert (same_place["root"], same_place["label"]) == (str(hat / "2024"), "cap")


def test_a_folder_that_was_moved_keeps_its_items_and_their_fields(
    twinsight: Twinsight, memory: MemoryServer, hat: Path
) -> None:
    moved = hat.rename(hat.parent / "moved")
    result = twinsight("index", moved)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "1 items moved to this folder, with their fields.",
        f"If {hat} was moved here, --moved-from {hat} --prune deletes its items whose file is gone.",
    ]
    assert (read(memory, "1.jpg").metadata["root"], read(memory, "1.jpg").metadata["label"]) == (str(moved), "hat")
    again = json.loads(twinsight("index", moved, "--json").stdout)
    assert (again["unchanged"], again["moved"]) == (1, 0)


def test_an_item_whose_fields_name_no_folder_any_more_gets_them_again(
    twinsight: Twinsight, memory: MemoryServer, hat: Path
) -> None:
    with FakeClient(memory) as client:
        client.upsert("photos", [NewItem("1.jpg", KEEP_VECTOR, {"label": "cap"})]).values()
    assert twinsight("index", hat).exit_code == 0
    assert (read(memory, "1.jpg").metadata["root"], read(memory, "1.jpg").metadata["label"]) == (str(hat), "cap")
