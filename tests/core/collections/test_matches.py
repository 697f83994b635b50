"""What is shown of matches: metadata from memory or from disk, the same either way, and no more than there is room."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections import matches
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import AnswerTooLarge
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, NewItem, SearchOptions
from twinsight_core.metadata import (
    MAX_BYTES,
    MAX_ENCODED_BYTES,
    MAX_FIELDS,
    MAX_NAME_BYTES,
    Metadata,
    check_metadata,
    encode_metadata,
)
from twinsight_core.storage.store import FILE_NAME, Store

METADATA: list[Metadata] = [
    {"a": 1, "b": "x", "c": ("x", "y")},
    {},
    {"a": 1.0, "only here": True},
    {"a": -0.0, "b": ""},
    {"a": 0.0, "c": ()},
    {"a": 2**62 + 1, "b": 'é"\n'},
    {"a": True, "b": "1"},
]
QUERIES = np.eye(2, dtype=np.float32)


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    Store.create(tmp_path / FILE_NAME, CollectionSpec("things", 2, Metric.EUCLIDEAN))
    made = Collection(tmp_path)
    made.upsert([NewItem(f"i{n}", np.full(2, n, np.float32), fields) for n, fields in enumerate(METADATA)])
    yield made
    made.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items each read of the disk was of."""
    counts: list[int] = []
    by_seq = Store.by_seq

    def counting(store: Store, seqs: list[int], *, max_bytes: int | None = None) -> object:
        counts.append(len(seqs))
        return by_seq(store, seqs, max_bytes=max_bytes)

    monkeypatch.setattr(Store, "by_seq", counting)
    return counts


def _shown(collection: Collection, options: SearchOptions) -> list[list[tuple[str, str]]]:
    """Returns ids and metadata, whose types count, in the order found."""
    found = collection.search(QUERIES, options)
    return [[(one.id, repr(one.metadata and sorted(one.metadata.items()))) for one in matches] for matches in found]


def test_metadata_comes_from_memory_and_from_disk_as_it_was_written(
    collection: Collection, monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    written = [(f"i{n}", repr(fields and sorted(fields.items()))) for n, fields in enumerate(METADATA)]
    options = SearchOptions(len(METADATA), include_metadata=True)
    assert [sorted(one) for one in _shown(collection, options)] == [written, written]
    assert reads == []
    both = SearchOptions(len(METADATA), include_metadata=True, include_vectors=True)
    assert [sorted(one) for one in _shown(collection, both)] == [written, written]
    assert reads == [len(METADATA)]
    # To look through many fields for a few items takes longer than to read these.
    monkeypatch.setattr(matches, "_FIELDS_PER_ITEM", 0)
    assert [sorted(one) for one in _shown(collection, options)] == [written, written]
    assert reads == [len(METADATA), len(METADATA)]


def test_what_a_least_score_leaves_out_is_not_read(collection: Collection, reads: list[int]) -> None:
    query = np.zeros((1, 2), np.float32)
    (found,) = collection.search(query, SearchOptions(5, min_score=-1.5, include_vectors=True, include_metadata=True))
    assert [(one.id, one.metadata) for one in found] == [("i0", METADATA[0]), ("i1", METADATA[1])]
    assert reads == [2]
    assert collection.search(query, SearchOptions(5, min_score=1.0, include_metadata=True)) == [[]]
    # A score is a float32: one that is a little less than the least does not pass for it.
    of_the_second = float(np.float32(-(2.0**0.5)))
    (found,) = collection.search(query, SearchOptions(2, min_score=float(np.nextafter(of_the_second, 0.0))))
    assert [one.id for one in found] == ["i0"]


@pytest.mark.parametrize("fields_per_item", [0, 10])
def test_more_metadata_than_there_is_room_for_is_refused(
    collection: Collection, monkeypatch: pytest.MonkeyPatch, fields_per_item: int
) -> None:
    monkeypatch.setattr(matches, "_FIELDS_PER_ITEM", fields_per_item)
    room = 2 * sum(len(encode_metadata(fields)) for fields in METADATA)  # each is the match of both queries
    most = SearchOptions(len(METADATA), include_metadata=True, max_content_bytes=room)
    assert len(collection.search(QUERIES, most)[1]) == len(METADATA)
    less = SearchOptions(len(METADATA), include_metadata=True, max_content_bytes=room - 1)
    with pytest.raises(AnswerTooLarge):
        collection.search(QUERIES, less)


def test_no_metadata_takes_more_room_than_is_allowed_for() -> None:
    """Of a search for so few that they fit whatever they have, sizes are not looked at."""
    worst: list[Metadata] = [
        {"\x01" * MAX_NAME_BYTES: "\x01" * (MAX_BYTES - MAX_NAME_BYTES)},
        {f"{n:02}" + "x" * 120: ("",) * ((MAX_BYTES // MAX_FIELDS - 122) // 8) for n in range(MAX_FIELDS)},
        {f"{n:02}": False for n in range(MAX_FIELDS)},
        {f"{n:02}": -1.2345678901234567e-300 for n in range(MAX_FIELDS)},
    ]
    for metadata in worst[1:]:
        check_metadata(metadata, field="metadata")
    assert max(len(encode_metadata(metadata)) for metadata in worst) <= MAX_ENCODED_BYTES
