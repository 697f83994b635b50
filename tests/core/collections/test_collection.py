import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import apsw
import numpy as np
import pytest

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import AnswerTooLarge, DataLoss, InvalidInput, StorageFull, Unavailable
from twinsight_core.filters import AllOf, Exists, Filter, Range
from twinsight_core.index.base import Metric
from twinsight_core.items import Checkpoint, CollectionSpec, CollectionState, Item, Match, NewItem, SearchOptions
from twinsight_core.metadata import Metadata, decode_metadata
from twinsight_core.storage.records import StoredItem
from twinsight_core.storage.store import FILE_NAME, Store


def _vector(*components: float) -> np.ndarray:
    return np.array(components, np.float32)


def _item(name: str, *components: float, **metadata: int | str) -> NewItem:
    return NewItem(name, _vector(*components), metadata)


def _made(tmp_path: Path, metric: Metric = Metric.EUCLIDEAN, options: CollectionOptions | None = None) -> Collection:
    folder = tmp_path / metric.value
    folder.mkdir()
    Store.create(folder / FILE_NAME, CollectionSpec(metric.value, 2, metric))
    return Collection(folder, options)


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    made = _made(tmp_path)
    yield made
    made.close()


def _found(collection: Collection, query: np.ndarray, options: SearchOptions) -> list[str]:
    return [match.id for match in collection.search(query[None], options)[0]]


def _plain(item: Item | None) -> tuple[str, list[float] | None, Metadata] | None:
    return None if item is None else (item.id, None if item.vector is None else item.vector.tolist(), item.metadata)


@pytest.mark.parametrize("filter_", [None, Exists("text")])
def test_items_with_more_contents_than_an_answer_may_have_are_refused(
    collection: Collection, filter_: Filter | None
) -> None:
    """`{"text":"xx...x"}` has 11 bytes beside its text, a vector 8."""
    collection.upsert([_item(name, 1, 2, text="x" * 89) for name in "abc"])
    for include_vectors, most in ((False, 200), (True, 216)):
        read = partial(collection.get, ["a", "b", "a"], include_vectors=include_vectors)
        page = partial(collection.page, after="", limit=2, filter=filter_, include_vectors=include_vectors)
        assert [one.id for one in read(max_bytes=most) if one] == ["a", "b", "a"]
        assert [one.id for one in page(max_bytes=most)[0]] == ["a", "b"]
        assert page(max_bytes=most)[1] is not None
        for refused in (read, page):
            with pytest.raises(AnswerTooLarge, match="The response exceeds the message size limit"):
                refused(max_bytes=most - 1)


def test_contents_are_read_no_further_than_an_answer_may_have(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.upsert([_item(f"i{n}", 1, 2, text="x" * 89) for n in range(50)])
    checked = Store._checked
    read: list[int] = []

    def counted(self: Store, row: Sequence[object]) -> StoredItem:
        item = checked(self, row)
        read.append(item.seq)
        return item

    monkeypatch.setattr(Store, "_checked", counted)
    with pytest.raises(AnswerTooLarge):
        collection.page(after="", limit=50, max_bytes=500)
    with pytest.raises(AnswerTooLarge):
        collection.get([f"i{n}" for n in range(50)], max_bytes=500)
    assert len(read) == 12


def test_of_a_page_only_what_is_looked_at_is_decoded(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    collection.upsert([_item(f"i{n:02}", 1, 2, n=n) for n in range(50)])
    decoded: list[bytes] = []

    def counted(encoded: bytes) -> Metadata:
        decoded.append(encoded)
        return decode_metadata(encoded)

    monkeypatch.setattr("twinsight_core.items.decode_metadata", counted)
    page, _ = collection.page(after="", limit=50)
    assert page[3].metadata == {"n": 3}
    assert decoded == [b'{"n":3}']


def test_an_item_that_is_asked_for_often_is_read_once(collection: Collection) -> None:
    collection.upsert([_item("a", 1, 2, text="x"), _item("b", 3, 4)])
    found = collection.get(["a", "b", "z", "a"], include_vectors=True)
    assert [None if one is None else one.id for one in found] == ["a", "b", None, "a"]
    assert found[0] is found[3]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Metric.COSINE, [("east", 1.0, 0.0), ("between", 0.6, 0.4), ("north", 0.0, 1.0)]),
        (Metric.EUCLIDEAN, [("between", -4.0, 4.0), ("east", -9.0, 9.0), ("north", -(2**0.5), 2**0.5)]),
        (Metric.DOT, [("east", 10.0, -10.0), ("between", 3.0, -3.0), ("north", 0.0, 0.0)]),
    ],
)
def test_scores_and_distances_worked_by_hand(
    tmp_path: Path, metric: Metric, expected: list[tuple[str, float, float]]
) -> None:
    collection = _made(tmp_path, metric)
    collection.upsert([_item("north", 0, 1), _item("between", 3, 4), _item("east", 10, 0)])
    matches = collection.search(_vector(1, 0)[None], SearchOptions(3))[0]
    if metric is Metric.EUCLIDEAN:
        expected = [("north", -(2**0.5), 2**0.5), ("between", -(20**0.5), 20**0.5), ("east", -9.0, 9.0)]
    assert [match.id for match in matches] == [name for name, _, _ in expected]
    assert [match.score for match in matches] == pytest.approx([score for _, score, _ in expected])
    assert [match.distance for match in matches] == pytest.approx([distance for _, _, distance in expected])
    collection.close()


def test_equal_scores_come_in_the_order_of_writing(collection: Collection) -> None:
    collection.upsert([_item("b", 1, 0), _item("a", 0, 1), _item("c", -1, 0)])
    collection.upsert([_item("b", 1, 0)])
    assert _found(collection, _vector(0, 0), SearchOptions(3)) == ["a", "c", "b"]


def test_an_item_is_replaced_whole_and_keeps_its_place(collection: Collection) -> None:
    collection.upsert([_item("a", 0, 0, colour="red", size=1), _item("b", 1, 1)])
    collection.upsert([_item("a", 5, 5, colour="blue")])
    assert collection.status().item_count == 2
    assert [_plain(item) for item in collection.get(["a"], include_vectors=True)] == [
        ("a", [5.0, 5.0], {"colour": "blue"})
    ]
    assert [item.id for item in collection.page(after="", limit=9)[0]] == ["a", "b"]
    assert _found(collection, _vector(0, 0), SearchOptions(9, filter=Exists("size"))) == []
    assert _found(collection, _vector(0, 0), SearchOptions(1)) == ["b"]


def test_of_two_with_one_id_in_a_batch_the_later_wins(collection: Collection) -> None:
    collection.upsert([_item("a", 0, 0, n=1), _item("b", 1, 1), _item("a", 7, 7, n=2)])
    assert [_plain(item) for item in collection.page(after="", limit=9)[0]] == [("a", None, {"n": 2}), ("b", None, {})]


def test_vectors_come_back_as_they_were_written_under_cosine_too(tmp_path: Path) -> None:
    collection = _made(tmp_path, Metric.COSINE)
    collection.upsert([_item("a", 300, -0.0, n=1)])
    match = collection.search(_vector(2, 0)[None], SearchOptions(1, include_vectors=True, include_metadata=True))[0][0]
    assert (match.score, match.metadata) == (1.0, {"n": 1})
    assert match.vector is not None
    assert match.vector.tobytes() == _vector(300, -0.0).tobytes()
    collection.close()


def test_matches_carry_only_what_was_asked_for(collection: Collection) -> None:
    collection.upsert([_item("a", 3, 4, n=1)])
    assert collection.search(_vector(0, 0)[None], SearchOptions(5)) == [[Match("a", -5.0, 5.0)]]
    with_metadata = SearchOptions(5, include_metadata=True)
    assert collection.search(_vector(0, 0)[None], with_metadata) == [[Match("a", -5.0, 5.0, {"n": 1})]]


def test_a_least_score_cuts_the_matches(collection: Collection) -> None:
    collection.upsert([_item(str(i), i, 0) for i in range(5)])
    assert _found(collection, _vector(0, 0), SearchOptions(5, min_score=-2.0)) == ["0", "1", "2"]
    assert _found(collection, _vector(0, 0), SearchOptions(5, min_score=1.0)) == []


def test_queries_are_answered_each_on_its_own(collection: Collection) -> None:
    collection.upsert([_item("a", 0, 0), _item("b", 9, 9)])
    queries = np.array([[9, 9], [0, 0], [8, 8], [1, 1], [7, 7]], np.float32)
    assert [one[0].id for one in collection.search(queries, SearchOptions(1))] == ["b", "a", "b", "a", "b"]
    assert collection.search(np.empty((0, 2), np.float32), SearchOptions(1)) == []


def test_an_empty_collection_finds_nothing(collection: Collection) -> None:
    assert collection.search(np.ones((2, 2), np.float32), SearchOptions(3, include_metadata=True)) == [[], []]
    assert collection.page(after="", limit=5) == ([], None)
    assert collection.get(["a"]) == [None]
    assert collection.delete(["a"]) == [False]


def test_deleting_says_what_was_there(collection: Collection) -> None:
    collection.upsert([_item(name, 1, 1) for name in "abc"])
    assert collection.delete(["a", "a", "z", "c"]) == [True, False, False, True]
    assert collection.delete([]) == []
    assert [item.id for item in collection.page(after="", limit=9)[0]] == ["b"]


def test_deleting_by_a_filter(collection: Collection) -> None:
    collection.upsert([_item(str(i), i, i, n=i) for i in range(10)])
    assert collection.delete_where(Range("n", gte=3.0)) == 7
    assert collection.delete_where(Range("n", gte=3.0)) == 0
    assert collection.status().item_count == 3


def test_a_large_log_is_folded_after_a_write(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinsight_core.storage.store._LOG_BYTES", 1 << 16)
    for number in range(10):
        collection.upsert([_item("a", 1, 1, text="x" * 60_000, n=number)])
    collection.upsert([])  # answered after what follows the write before
    assert collection._store._log_file.stat().st_size <= 1 << 16
    assert [_plain(item) for item in collection.get(["a"])] == [("a", None, {"text": "x" * 60_000, "n": 9})]


def test_a_batch_is_written_once_under_its_checkpoint(collection: Collection, tmp_path: Path) -> None:
    collection.upsert([_item("a", 0, 0, n=1)], checkpoint=Checkpoint("bulk", 5))
    collection.upsert([_item("a", 0, 0, n=2)], checkpoint=Checkpoint("bulk", 5))
    collection.upsert([_item("a", 0, 0, n=3)], checkpoint=Checkpoint("other", 1))
    assert [collection.last_batch(name) for name in ("bulk", "other", "none")] == [5, 1, 0]
    collection.close()
    again = Collection(tmp_path / "euclidean")
    assert [again.last_batch(name) for name in ("bulk", "other", "none")] == [5, 1, 0]
    assert [_plain(item) for item in again.get(["a"])] == [("a", None, {"n": 3})]
    again.close()


@pytest.mark.parametrize(
    ("item", "field", "words"),
    [
        (_item("", 1, 1), "id", "`id` (of 0 bytes) must be 1 to 256 bytes of UTF-8."),
        (_item("é" * 129, 1, 1), "id", "`id` (of 258 bytes) must be 1 to 256 bytes of UTF-8."),
        (_item("a\x7f", 1, 1), "id", "`id` ('a\\x7f') must not have control characters."),
        (_item("\ud800", 1, 1), "id", "`id` must be valid UTF-8."),
        (_item("a", 1), "vector", "`vector` (of shape [1]) must have 2 components."),
        (NewItem("a", np.ones(2)), "vector", "`vector` (of float64) must be float32."),
        (_item("a", 1, float("nan")), "vector", "`vector` must be finite; it has NaN or infinity."),
        (_item("a", 1, float("-inf")), "vector", "`vector` must be finite; it has NaN or infinity."),
        (_item("a", 1, 2e18), "vector", "`vector` (of length 2e+18) must be at most 1e+18 long."),
        (NewItem("a", _vector(1, 1), {"n": 2**63}), "metadata['n']", "must fit in 64 bits."),
    ],
)
def test_items_against_the_rules_are_refused(collection: Collection, item: NewItem, field: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        collection.check_item(item)
    assert words in refused.value.message
    assert refused.value.field == field
    with pytest.raises(InvalidInput) as refused:
        collection.upsert([_item("fine", 1, 1), item])
    assert refused.value.field == f"items[1].{field}"
    assert collection.status().item_count == 0


def test_a_zero_vector_has_no_place_under_cosine_alone(tmp_path: Path) -> None:
    for metric in Metric:
        collection = _made(tmp_path, metric)
        if metric is Metric.COSINE:
            with pytest.raises(InvalidInput, match="all zero, which has no direction; the metric is cosine"):
                collection.check_vector(_vector(0, 0))
        else:
            collection.check_vector(_vector(0, 0))
        collection.check_vector(_vector(1e-45, 0))
        collection.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SearchOptions(0), "`top_k` (=0) must be at least 1."),
        (SearchOptions(5, ef=4), "`ef` (=4) must be `top_k` (=5) to 4096, or 0."),
        (SearchOptions(5, ef=5000), "`ef` (=5000) must be `top_k` (=5) to 4096, or 0."),
        (SearchOptions(5, min_score=float("nan")), "`min_score` must not be NaN."),
        (SearchOptions(5, filter=AllOf(())), "`filter.all_of.filters` must have at least one filter."),
    ],
)
def test_searches_against_the_rules_are_refused(collection: Collection, options: SearchOptions, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        collection.search(np.ones((1, 2), np.float32), options)
    assert refused.value.message == words


def test_a_bad_query_is_named_by_its_place(collection: Collection) -> None:
    with pytest.raises(InvalidInput) as refused:
        collection.search(np.array([[1, 1], [np.nan, 0]], np.float32), SearchOptions(1))
    assert refused.value.field == "queries[1].vector"


@pytest.mark.parametrize("checkpoint", [Checkpoint("", 1), Checkpoint("a", 0), Checkpoint("a", 2**63)])
def test_a_bad_checkpoint_is_refused(collection: Collection, checkpoint: Checkpoint) -> None:
    with pytest.raises(InvalidInput):
        collection.upsert([_item("a", 1, 1)], checkpoint=checkpoint)
    assert collection.get(["a"]) == [None]


def test_a_closed_collection_says_so(collection: Collection) -> None:
    collection.upsert([_item("a", 1, 1)], checkpoint=Checkpoint("bulk", 1))
    collection.close()
    calls = (
        lambda: collection.upsert([_item("a", 1, 1)]),
        lambda: collection.get(["a"]),
        lambda: collection.page(after="", limit=1),
        lambda: collection.page(after="", limit=1, filter=Exists("n")),
        lambda: collection.search(np.ones((1, 2), np.float32), SearchOptions(1)),
        lambda: collection.search(np.ones((1, 2), np.float32), SearchOptions(1, include_metadata=True)),
        lambda: collection.delete(["a"]),
        lambda: collection.delete_where(Exists("n")),
        lambda: collection.last_batch("bulk"),
    )
    for call in calls:
        with pytest.raises(Unavailable, match=r"Collection `euclidean` is closed\."):
            call()


def test_a_graph_that_can_not_be_saved_keeps_no_file_open(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*, snapshot: bool, until: float) -> None:
        close(snapshot=snapshot, until=until)
        raise RuntimeError("no such graph")

    close = collection._indexer.close
    monkeypatch.setattr(collection._indexer, "close", fail)
    with pytest.raises(RuntimeError, match="no such graph"):
        collection.close()
    with pytest.raises(apsw.ConnectionClosedError):
        collection._store._writer.execute("SELECT 1")


def test_damage_found_while_running_stops_that_collection(tmp_path: Path) -> None:
    collection = _made(tmp_path)
    collection.upsert([_item("a", 1, 1), _item("b", 2, 2)])
    other = apsw.Connection(str(tmp_path / "euclidean" / FILE_NAME))
    other.execute("UPDATE items SET crc = crc + 1 WHERE id = 'b'")
    other.close()
    assert collection.get(["a"]) != [None]
    assert collection.status().state is CollectionState.READY
    with pytest.raises(DataLoss, match="Collection `euclidean` is damaged"):
        collection.get(["b"])
    assert collection.status().state is CollectionState.DAMAGED
    calls = (
        lambda: collection.get(["a"]),
        lambda: collection.upsert([_item("c", 1, 1)]),
        lambda: collection.search(np.ones((1, 2), np.float32), SearchOptions(1)),
        lambda: collection.delete(["a"]),
        lambda: collection.page(after="", limit=1),
        lambda: collection.last_batch("bulk"),
    )
    for call in calls:
        with pytest.raises(DataLoss, match="Collection `euclidean` is damaged"):
            call()
    collection.close()
    with pytest.raises(DataLoss):
        Collection(tmp_path / "euclidean")


def test_on_a_full_disk_writes_are_refused_and_searches_go_on(collection: Collection) -> None:
    collection.upsert([_item("a", 1, 1, n=1)])
    disk = collection._store._writer
    disk.pragma("max_page_count", disk.pragma("page_count"))
    big = [NewItem(f"big{i}", _vector(1, 1), {"text": "x" * 60000}) for i in range(5)]
    with pytest.raises(StorageFull, match=r"The disk has no room; nothing of the call was written\."):
        collection.upsert(big)
    assert collection.status().item_count == 1
    assert _found(collection, _vector(0, 0), SearchOptions(9)) == ["a"]
    disk.pragma("max_page_count", 2**31)
    collection.upsert(big)
    assert collection.status().item_count == 6


def test_a_write_that_does_not_fit_takes_no_other_of_its_group_down(collection: Collection) -> None:
    outcomes: dict[str, str] = {}

    def write(name: str, text: str) -> None:
        try:
            collection.upsert([NewItem(f"{name}{i}", _vector(1, 1), {"text": text}) for i in range(5)])
        except StorageFull:
            outcomes[name] = "full"
        else:
            outcomes[name] = "written"

    threads = [
        threading.Thread(target=write, args=(name, text)) for name, text in (("small", "x"), ("big", "x" * 60000))
    ]
    first = threading.Thread(target=write, args=("first", "x"))
    with collection._indexer._applying:  # holds the writing thread up after its first commit, so that a group forms
        first.start()
        while collection._store.item_count == 0:
            first.join(0.001)
        for thread in threads:
            thread.start()
        while collection._writer._requests.qsize() < 2:
            first.join(0.001)
        disk = collection._store._writer
        disk.pragma("max_page_count", disk.pragma("page_count") + 4)
    for thread in (first, *threads):
        thread.join()
    assert outcomes == {"first": "written", "small": "written", "big": "full"}
    assert collection.status().item_count == 10
