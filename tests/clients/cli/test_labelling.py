"""`twinsight classify --write-to`: labels of a library that searches can filter by."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twinsight_client import KEEP_VECTOR, NewItem, ResourceExhausted, Unavailable
from twinsight_client.cli import batches
from twinsight_client.results import Item, MetadataValue
from twinsight_client.testing import FakeClient, MemoryServer

from .conftest import Twinsight

pytestmark = pytest.mark.client

Items = Callable[[], dict[str, Item]]
PICTURES = ("2024/b.jpg", "2024/summer/c.JPG", "a.jpg")


@pytest.fixture
def indexed(twinsight: Twinsight, album: Path) -> Path:
    (album / "2024/broken.png").unlink()
    assert twinsight("index", album).exit_code == 0
    return album


@pytest.fixture
def stored(memory: MemoryServer) -> Items:
    """Reads the items of `photos`, with their vectors."""

    def read() -> dict[str, Item]:
        with FakeClient(memory) as client:
            return {
                item.id: item for page in client.list_items("photos", include_vectors=True) for item in page.values()
            }

    return read


def labels_of(twinsight: Twinsight, *files: Path) -> list[dict[str, MetadataValue]]:
    """The fields that each file's item should have."""
    results = json.loads(twinsight("classify", *files, "--top-k", 1, "--json").stdout)["results"]
    return [
        {"label": one["labels"][0]["label"], "label_probability": one["labels"][0]["probability"]} for one in results
    ]


def test_items_get_the_best_label_and_keep_the_rest_and_searches_filter_by_it(
    twinsight: Twinsight, indexed: Path, stored: Items
) -> None:
    before = stored()
    result = twinsight("classify", indexed, "--write-to", "photos")
    assert (result.exit_code, result.stderr) == (0, "")
    said = dict(line.rsplit(maxsplit=1) for line in result.stdout.splitlines())
    assert said == {
        "collection": "photos",
        "pictures": "3",
        "written": "3",
        "unchanged": "0",
        "kept": "0",
        "no label": "0",
        "no item": "0",
        "not labelled": "0",
    }
    expected = labels_of(twinsight, *(indexed / one for one in PICTURES))
    after = stored()
    for name, fields in zip(PICTURES, expected, strict=True):
        assert after[name].metadata == {**before[name].metadata, **fields}
        kept, vector = after[name].vector, before[name].vector
        assert kept is not None and vector is not None and np.array_equal(kept, vector)  # noqa: PT018
    wanted = {name for name, one in zip(PICTURES, expected, strict=True) if one["label"] == expected[0]["label"]}
    condition = json.dumps({"label": expected[0]["label"]})
    found = json.loads(twinsight("search", indexed / "a.jpg", "--filter", condition, "--json").stdout)["matches"]
    listed = json.loads(twinsight("items", "photos", "--filter", condition, "--json").stdout)["items"]
    assert {one["id"] for one in found} == {one["id"] for one in listed} == wanted
    again = json.loads(twinsight("classify", indexed, "--write-to", "photos", "--json").stdout)["written_to"]
    assert again == {
        "collection": "photos",
        "written": 0,
        "unchanged": 3,
        "kept": 0,
        "no_label": 0,
        "no_item": [],
        "skipped": [],
    }
    assert twinsight("index", indexed).stdout.split()[:6] == ["collection", "photos", "found", "3", "unchanged", "3"]


def test_a_picture_that_is_not_sure_enough_loses_the_label_of_an_earlier_run(
    twinsight: Twinsight, indexed: Path, stored: Items
) -> None:
    before = stored()
    assert twinsight("classify", indexed, "--write-to", "photos").exit_code == 0
    unsure = twinsight("classify", indexed, "--write-to", "photos", "--min-probability", 1, "--json")
    report = json.loads(unsure.stdout)["written_to"]
    assert (unsure.exit_code, report["written"], report["no_label"]) == (0, 3, 3)
    assert {name: item.metadata for name, item in stored().items()} == {
        name: item.metadata for name, item in before.items()
    }


def test_a_label_that_somebody_gave_stays_unless_it_is_to_be_replaced(
    twinsight: Twinsight, memory: MemoryServer, indexed: Path, stored: Items
) -> None:
    with FakeClient(memory) as client:
        given = {**stored()["a.jpg"].metadata, "label": "my own"}
        client.upsert("photos", [NewItem("a.jpg", KEEP_VECTOR, given)]).values()
    for options in ([], ["--min-probability", 1]):
        result = twinsight("classify", indexed, "--write-to", "photos", *options, "--json")
        assert (result.exit_code, json.loads(result.stdout)["written_to"]["kept"]) == (0, 1)
        assert stored()["a.jpg"].metadata == given
    assert twinsight("classify", indexed, "--write-to", "photos", "--replace").exit_code == 0
    (label,) = labels_of(twinsight, indexed / "a.jpg")
    assert stored()["a.jpg"].metadata == given | label


def test_parts_of_a_library_and_single_files_find_the_same_items(
    twinsight: Twinsight, indexed: Path, stored: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(indexed / "2024")
    for given, name in ((Path("summer"), PICTURES[1]), (Path("b.jpg"), PICTURES[0]), (Path("../a.jpg"), PICTURES[2])):
        assert "label" not in stored()[name].metadata
        assert twinsight("classify", given, "--write-to", "photos").exit_code == 0
        (expected,) = labels_of(twinsight, indexed / name)
        assert stored()[name].metadata["label"] == expected["label"]
    (indexed / "2024").rename(indexed.parent / "moved")
    moved = twinsight("classify", indexed.parent / "moved", "--write-to", "photos", "--json")
    assert json.loads(moved.stdout)["written_to"]["no_item"] == [
        str(indexed.parent / "moved/b.jpg"),
        str(indexed.parent / "moved/summer/c.JPG"),
    ]


def test_a_folder_that_was_moved_as_a_whole_is_found_by_ids_and_times(
    twinsight: Twinsight, indexed: Path, stored: Items
) -> None:
    moved = indexed.rename(indexed.parent / "moved")
    assert twinsight("classify", moved, "--write-to", "photos").exit_code == 0
    assert all("label" in item.metadata for item in stored().values())


def test_another_picture_of_the_same_id_is_left_alone(
    twinsight: Twinsight, indexed: Path, stored: Items, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jpg").write_bytes((indexed / "2024/b.jpg").read_bytes())
    os.utime(other / "a.jpg", ns=(1, 1))
    before = stored()["a.jpg"].metadata
    result = twinsight("classify", other, "--write-to", "photos")
    assert result.exit_code == 3
    assert result.stderr == (
        f"1 pictures have no item in photos, for example {other / 'a.jpg'}. Index them with `twinsight index`, and "
        "give the same --prefix here as there.\n"
    )
    assert stored()["a.jpg"].metadata == before


def test_items_that_others_wrote_go_by_their_ids_and_prefixes_and_names_of_fields_may_be_chosen(
    twinsight: Twinsight, memory: MemoryServer, album: Path
) -> None:
    with FakeClient(memory) as client:
        client.create_collection("shop", dimension=2)
        names = ("x/a.jpg", "x/2024/b.jpg", "2024/summer/c.JPG")
        client.upsert("shop", [NewItem(name, [1.0, 0.0], {"price": 7}) for name in names]).values()
        chosen = ("--prefix", "x/", "--label-field", "kind", "--probability-field", "sure")
        assert twinsight("classify", album, "--write-to", "shop", *chosen).exit_code == 3
        first, second, third = client.get_items("shop", names).values()
    (expected,) = labels_of(twinsight, album / "a.jpg")
    assert first.metadata == {"kind": expected["label"], "price": 7, "sure": expected["label_probability"]}
    assert set(second.metadata) == {"kind", "price", "sure"}
    assert third.metadata == {"price": 7}


def test_what_can_not_be_written_is_listed(twinsight: Twinsight, memory: MemoryServer, indexed: Path) -> None:
    with FakeClient(memory) as client:
        (item,) = client.get_items("photos", ["a.jpg"]).values()
        full: dict[str, MetadataValue] = {**item.metadata, **{f"more{number}": 1 for number in range(59)}}
        client.upsert("photos", [NewItem("a.jpg", KEEP_VECTOR, full)]).values()
    result = twinsight("classify", indexed, "--write-to", "photos")
    assert (result.exit_code, result.stderr.split(":")[0]) == (3, "not labelled a.jpg")
    assert "[METADATA_INVALID]" in result.stderr
    assert "written       2" in result.stdout


def test_what_was_labelled_before_the_server_went_is_told(
    twinsight: Twinsight, memory: MemoryServer, indexed: Path, stored: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_SIZE", 1)
    upsert, written = FakeClient.upsert, 0

    def upsert_or_fail(client: FakeClient, collection: str, items: list[NewItem]) -> object:
        nonlocal written
        written += 1
        if written == 2:
            memory.fail_next(ResourceExhausted("The disk is full.", reason="DISK_FULL"))
        return upsert(client, collection, items)

    monkeypatch.setattr(FakeClient, "upsert", upsert_or_fail)
    result = twinsight("classify", indexed, "--write-to", "photos", "--json")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Not finished: 1 of 3 files have no result.",
        "Error: The disk is full. [DISK_FULL]",
    ]
    document = json.loads(result.stdout)
    assert document["written_to"]["written"] == sum("label" in item.metadata for item in stored().values()) == 1
    assert ["labels" in one for one in document["results"]] == [True, True, False]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label-field", "root"], "`root` is reserved for `twinsight index`."),
        (["--probability-field", ""], "must not be empty."),
        (["--label-field", "label_probability"], "must differ"),
    ],
)
def test_fields_that_would_not_do_are_refused(twinsight: Twinsight, album: Path, options: list[str], said: str) -> None:
    result = twinsight("classify", album, "--write-to", "photos", *options)
    assert (result.exit_code, said in result.stderr) == (2, True)


@pytest.mark.parametrize("option", [["--prefix", ""], ["--label-field", "kind"], ["--replace"]])
def test_what_only_writing_gives_a_meaning_to_is_refused_without_it(
    twinsight: Twinsight, album: Path, option: list[str]
) -> None:
    result = twinsight("classify", album, *option)
    assert (result.exit_code, f"{option[0]} requires --write-to." in result.stderr) == (2, True)


def test_a_collection_that_is_not_there_is_told_before_the_work(
    twinsight: Twinsight, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> object:
        raise Unavailable("It was asked.")

    monkeypatch.setattr(FakeClient, "classify", fail)
    result = twinsight("classify", album, "--write-to", "none")
    assert (result.exit_code, "[COLLECTION_NOT_FOUND]" in result.stderr) == (1, True)
