"""Data that an earlier release wrote opens with today's code, and what a later one wrote is refused by name.

`tests/data/formats/vN/data.tar.xz` is a data folder as the first release with store version N wrote it, and
`keyring.json` has the keys where it is encrypted. It is never written anew: when the version rises, another is put
beside it.
"""

import dataclasses
import tarfile
from contextlib import closing
from pathlib import Path

import apsw
import numpy as np
import pytest

from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import CollectionOptions
from twinsight_core.errors import DataLoss
from twinsight_core.filters import Equals
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import LIBRARY, GraphParameters, HnswIndex
from twinsight_core.items import CollectionSpec, NewItem, SearchOptions
from twinsight_core.sealing.keyring import read_keyring
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage.backups import back_up
from twinsight_core.storage.layout import NEWEST_VERSION
from twinsight_core.storage.restoring import restore
from twinsight_core.storage.store import FILE_NAME

FORMATS = Path(__file__).resolve().parents[2] / "data" / "formats"
OPTIONS = CollectionOptions(
    graph=GraphParameters(links=4, build_width=20), policy=IndexPolicy(graph_from=20, patience=5)
)
# What was written to every fixture: i0 to i59, of which i3 and i4 were deleted and i5 was written anew.
LIVE = [f"i{n}" for n in range(60) if n not in {3, 4, 5}] + ["i5"]


def _vector(number: int) -> np.ndarray:
    moved = 100 if number == 5 else 0
    plain = [number % 7, number // 7, number % 3, 1, 0.5, -number, number * number % 11, 0.25]
    return np.array(plain, np.float32) + np.float32(moved)


@pytest.fixture(params=sorted(path.name for path in FORMATS.iterdir()))
def release(request: pytest.FixtureRequest) -> Path:
    return FORMATS / str(request.param)


@pytest.fixture
def data(release: Path, tmp_path: Path) -> Path:
    with tarfile.open(release / "data.tar.xz") as archive:
        archive.extractall(tmp_path / "data", filter="data")
    return tmp_path / "data"


@pytest.fixture
def options(release: Path, monkeypatch: pytest.MonkeyPatch) -> CollectionOptions:
    """With the key that the data was encrypted with, if it was."""
    keys = release / "keyring.json"
    if not keys.exists():
        return OPTIONS
    monkeypatch.setenv("RELEASED_KEYS", keys.read_text())
    return dataclasses.replace(OPTIONS, keyring=read_keyring("env:RELEASED_KEYS"))


def _check(catalog: Catalog) -> None:
    collection = catalog.get("shapes")
    assert collection.spec == CollectionSpec("shapes", 8, Metric.EUCLIDEAN, "base", "sha256:0123", 1000.5)
    page, after = collection.page(after="", limit=100, include_vectors=True)
    assert (after, sorted(item.id for item in page)) == (None, sorted(LIVE))
    for item in page:
        number = int(item.id[1:])
        assert item.vector is not None
        assert np.array_equal(item.vector, _vector(number))
        if number == 5:
            assert item.metadata == {"n": 500, "tags": ("new", "moved")}
        else:
            even = number % 2 == 0
            assert item.metadata == {"n": number, "half": number / 2, "even": even, "name": f"shape ä{number}"}
    assert collection.last_batch("bulk") == 7
    for exact in (False, True):
        found = collection.search(np.stack([_vector(7), _vector(5)]), SearchOptions(1, exact=exact))
        assert [one[0].id for one in found] == ["i7", "i5"]
    (odd,) = collection.search(_vector(8)[None], SearchOptions(60, filter=Equals("even", False)))
    assert len(odd) == 28


def test_every_released_version_has_its_data() -> None:
    assert sorted(path.name for path in FORMATS.iterdir()) == [f"v{n + 1}" for n in range(NEWEST_VERSION)]


def test_data_of_every_released_version_opens_and_takes_writes(data: Path, options: CollectionOptions) -> None:
    with closing(Catalog(data, options=options)) as catalog:
        _check(catalog)
        catalog.get("shapes").upsert([NewItem("new", _vector(60))])
        assert catalog.get("shapes").delete(["new"], purge=True) == [True]
    with closing(Catalog(data, options=options)) as again:
        _check(again)


@pytest.mark.skipif(LIBRARY != "hnswlib 0.8.0", reason="graphs of another version of hnswlib are built anew")
def test_the_graph_of_the_release_is_taken_as_it_is(
    data: Path, options: CollectionOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(HnswIndex, "add", None)  # nothing is left to be added
    with closing(Catalog(data, options=options)) as catalog:
        assert catalog.get("shapes").status().indexed_count == len(LIVE)
        _check(catalog)
    assert not caplog.records


def test_data_of_every_released_version_can_be_backed_up_and_restored(
    data: Path, options: CollectionOptions, tmp_path: Path
) -> None:
    back_up(data, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "other")
    with closing(Catalog(tmp_path / "other", options=options)) as catalog:
        _check(catalog)


def test_data_of_a_later_version_is_refused_and_left_as_it_is(data: Path, tmp_path: Path) -> None:
    file = data / "collections" / "shapes" / FILE_NAME
    later = apsw.Connection(str(file))
    later.execute(
        "UPDATE collection SET schema_version = ?; ALTER TABLE items ADD COLUMN more ANY", (NEWEST_VERSION + 1,)
    )
    later.close()
    before = file.read_bytes()
    with closing(Catalog(data)) as catalog, pytest.raises(DataLoss) as refused:
        catalog.get("shapes")
    message = (
        "Collection `shapes` was written by a later version of twinsight (store version "
        f"{NEWEST_VERSION + 1}; this one reads up to {NEWEST_VERSION}); nothing was changed."
    )
    assert (refused.value.message, refused.value.reason) == (message, "STORE_TOO_NEW")
    with pytest.raises(DataLoss, match="was written by a later version of twinsight"):
        back_up(data, tmp_path / "backup")
    assert file.read_bytes() == before
