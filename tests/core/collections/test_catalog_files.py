"""A catalog where next to no files can be opened any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from few_files import few_files_left
from twinsight_core.collections.catalog import Catalog
from twinsight_core.errors import StartupError, Unavailable
from twinsight_core.host.open_files import open_files
from twinsight_core.items import CollectionSpec

TOLD = r"No more files can be opened: the process has reached its limit \(\d+\)\. Close connections, delete"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "data")
    yield opened
    opened.close()


@pytest.mark.parametrize("left", range(5))
def test_a_collection_that_finds_no_files_is_not_made_and_the_error_says_why(
    catalog: Catalog, tmp_path: Path, left: int
) -> None:
    before = open_files()
    with few_files_left(left), pytest.raises(Unavailable, match=TOLD) as refused:
        catalog.create(CollectionSpec("a", 2))
    assert refused.value.reason == "OPEN_FILES_EXHAUSTED"
    assert ".new-" not in refused.value.message
    assert open_files() == before
    assert catalog.list() == []
    catalog.create(CollectionSpec("a", 2))
    assert [one.name for one in (tmp_path / "data" / "collections").iterdir()] == ["a"]


def test_a_start_that_finds_no_files_for_all_collections_says_so(catalog: Catalog, tmp_path: Path) -> None:
    for name in "abc":
        catalog.create(CollectionSpec(name, 2))
    catalog.close()
    message = rf"Only [12] collections could be opened\. {TOLD}"
    with few_files_left(14), pytest.raises(StartupError, match=message) as refused:
        Catalog(tmp_path / "data")
    assert refused.value.reason == "OPEN_FILES_EXHAUSTED"
    Catalog(tmp_path / "data").close()


def test_a_collection_is_deleted_where_no_file_can_be_opened(catalog: Catalog, tmp_path: Path) -> None:
    catalog.create(CollectionSpec("a", 2))
    with few_files_left(0):
        catalog.delete("a")
    assert not any((tmp_path / "data" / "collections").iterdir())
