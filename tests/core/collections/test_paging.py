"""Pages of a collection: in an order that no write changes, with and without a filter, plain and encrypted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections import paging
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.filters import Equals, Exists, Filter, Not
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, Item, NewItem, NewMetadata
from twinsight_core.sealing.keyring import Keyring, new_key

COUNT = 60
IDS = [f"{'äzA日'[n % 4]}{n}" for n in range(COUNT)]


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def catalog(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Catalog]:
    options = CollectionOptions(keyring=Keyring(new_key()) if request.param else None)
    made = Catalog(tmp_path / "data", options=options)
    yield made
    made.close()


@pytest.fixture
def collection(catalog: Catalog) -> Collection:
    made = catalog.create(CollectionSpec("mine", 2, Metric.EUCLIDEAN))
    made.upsert([new(n) for n in range(COUNT)])
    return made


@pytest.fixture(params=[0, 4096], ids=["passing over", "sorting"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the first of many matches are found."""
    monkeypatch.setattr(paging, "_SORTED_MATCHES", request.param)
    monkeypatch.setattr(paging, "_MOST_PASSED_AT_ONCE", 7)


def new(number: int, **fields: int) -> NewItem:
    return NewItem(IDS[number], np.array([number, 1], np.float32), {"third": number % 3, **fields})


def listed(
    collection: Collection,
    filter_: Filter | None = None,
    *,
    limit: int = 7,
    between: Callable[[list[Item]], object] = lambda _: None,
) -> list[Item]:
    """Reads all pages, with something done after each."""
    found: list[Item] = []
    after: str | None = ""
    while after is not None:
        page, after = collection.page(after=after, limit=limit, filter=filter_, include_vectors=True)
        assert len(page) == limit or after is None
        found += page
        between(page)
    return found


def test_plain_items_come_by_id(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "data")
    made = catalog.create(CollectionSpec("mine", 2, Metric.EUCLIDEAN))
    made.upsert([new(n) for n in range(COUNT)])
    assert [item.id for item in listed(made)] == sorted(IDS)
    catalog.close()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("limit", [1, 7, 20, 59, 60, 1000])
def test_all_pages_together_have_each_item_once(collection: Collection, limit: int) -> None:
    collection.upsert([new(3), new(30)])
    collection.delete([IDS[5], IDS[6]])
    left = {IDS[n]: n for n in range(COUNT) if n not in {5, 6}}
    everything = listed(collection, limit=limit)
    assert sorted(item.id for item in everything) == sorted(left)
    for item in everything:
        assert item.vector is not None
        assert item.vector.tolist() == [left[item.id], 1]
    for filter_, wanted in (
        (Equals("third", 1), [one for one in everything if one.metadata["third"] == 1]),
        (Not(Equals("third", 1)), [one for one in everything if one.metadata["third"] != 1]),
        (Exists("nothing"), []),
    ):
        some = listed(collection, filter_, limit=limit)
        assert [(one.id, one.metadata) for one in some] == [(one.id, one.metadata) for one in wanted]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("filter_", [None, Equals("third", 1)])
def test_who_writes_what_the_pages_hold_comes_to_an_end_and_meets_each_once(
    collection: Collection, filter_: Filter | None
) -> None:
    def count_up(page: list[Item]) -> None:
        changed = [{**item.metadata, "n": int(str(item.metadata.get("n", 0))) + 1} for item in page]
        collection.upsert([NewMetadata(item.id, fields) for item, fields in zip(page, changed, strict=True)])

    met = listed(collection, filter_, between=count_up)
    assert len(met) == (COUNT if filter_ is None else COUNT // 3)
    assert [item.metadata.get("n") for item in listed(collection, filter_)] == [1] * len(met)


@pytest.mark.usefixtures("way")
def test_what_others_write_meanwhile_is_not_missed(collection: Collection) -> None:
    random = np.random.default_rng(0)

    def rewrite(_: list[Item]) -> None:
        collection.upsert([new(int(n)) for n in random.permutation(COUNT)[:20]])

    assert sorted(item.id for item in listed(collection, between=rewrite)) == sorted(IDS)
    assert len({item.id for item in listed(collection, Equals("third", 1), between=rewrite)}) == COUNT // 3


def test_a_mark_is_of_one_collection(catalog: Catalog, collection: Collection) -> None:
    mark = collection.mark
    other = catalog.create(CollectionSpec("other", 2, Metric.EUCLIDEAN, created_at=2.0))
    catalog.delete("mine")
    again = catalog.create(CollectionSpec("mine", 2, Metric.EUCLIDEAN, created_at=1.0))
    assert len({mark, other.mark, again.mark}) == 3
