from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from e2e import errors
from e2e.conftest import Dynamic, Reflected, from_bytes, to_bytes, until

COUNT = 3000  # from 2048 a collection keeps a graph
DIMENSION = 256


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """[COUNT, DIMENSION] float32 of length 1, in 50 clusters, as embeddings are."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(50, DIMENSION))
    points = centres[rng.integers(0, 50, COUNT)] + 0.7 * rng.normal(size=(COUNT, DIMENSION))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def filled(api: Reflected, vectors: np.ndarray) -> str:
    """A collection of the model's with COUNT items; `n` says which."""
    api.call("CollectionService", "CreateCollection", collection={"id": "filled", "model": "base"})
    for start in range(0, COUNT, 500):
        items = [
            {
                "id": f"item-{n}",
                "vector": to_bytes(vectors[n]),
                "metadata": {
                    "n": {"integer_value": n},
                    "half": {"bool_value": n % 2 == 0},
                    "kind": {"string_value": f"k{n % 10}"},
                    "weight": {"float_value": n / 10},
                    "tags": {"string_list": {"values": ["all", f"t{n % 100}"]}},
                },
            }
            for n in range(start, start + 500)
        ]
        results = api.call("CollectionService", "UpsertItems", collection="filled", items=items).results
        assert [result.id for result in results] == [item["id"] for item in items]
    until(lambda: described(api, "filled").indexed_count == COUNT)
    return "filled"


def described(api: Reflected, collection: str) -> Dynamic:
    return api.call("CollectionService", "GetCollection", collection=collection).collection


def search(api: Reflected, collection: str, *queries: Mapping[str, object], **options: object) -> list[list[Dynamic]]:
    options.setdefault("top_k", 10)
    response = api.call("CollectionService", "Search", collection=collection, queries=list(queries), **options)
    return [list(result.matches.matches) for result in response.results]


def ids(matches: list[Dynamic]) -> list[str]:
    return [match.id for match in matches]


def nearest(vectors: np.ndarray, query: np.ndarray, among: np.ndarray, count: int = 10) -> list[str]:
    scores = vectors[among].astype(np.float64) @ query.astype(np.float64)
    return [f"item-{among[place]}" for place in np.argsort(-scores, kind="stable")[:count]]


def test_search_by_vector_and_by_item_find_the_nearest(api: Reflected, filled: str, vectors: np.ndarray) -> None:
    by_vector, by_item = search(api, filled, {"vector": to_bytes(vectors[5])}, {"item_id": "item-5"})
    assert ids(by_vector) == ids(by_item)
    assert by_vector[0].id == "item-5"
    assert by_vector[0].score == pytest.approx(1, abs=1e-6)
    scores = [match.score for match in by_vector]
    assert scores == sorted(scores, reverse=True)
    assert all(match.distance == pytest.approx(1 - match.score, abs=1e-6) for match in by_vector)


def test_exact_search_is_exactly_the_exact_answer(api: Reflected, filled: str, vectors: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    queries = rng.normal(size=(20, DIMENSION)).astype(np.float32)
    found = search(api, filled, *({"vector": to_bytes(query)} for query in queries), exact=True)
    assert [ids(one) for one in found] == [nearest(vectors, query, np.arange(COUNT)) for query in queries]


# 50 %, 10 %, 1 % and 0.1 % of the items.
SELECTIVE: dict[str, tuple[dict[str, object], Callable[[int], bool]]] = {
    "half": ({"condition": {"field": "half", "equals": {"bool_value": True}}}, lambda n: n % 2 == 0),
    "tenth": ({"condition": {"field": "kind", "equals": {"string_value": "k3"}}}, lambda n: n % 10 == 3),
    "hundredth": ({"condition": {"field": "tags", "equals": {"string_value": "t42"}}}, lambda n: n % 100 == 42),
    "thousandth": ({"condition": {"field": "n", "range": {"gte": 700.0, "lt": 702.0}}}, lambda n: 700 <= n < 702),
}


@pytest.mark.parametrize("name", SELECTIVE)
def test_filters_lose_no_recall_at_any_selectivity(api: Reflected, filled: str, vectors: np.ndarray, name: str) -> None:
    condition, holds = SELECTIVE[name]
    among = np.array([n for n in range(COUNT) if holds(n)])
    rng = np.random.default_rng(11)
    queries = vectors[rng.integers(0, COUNT, 50)]
    found = search(api, filled, *({"vector": to_bytes(query)} for query in queries), filter=condition)
    right = [set(nearest(vectors, query, among)) for query in queries]
    recall = np.mean([len(set(ids(one)) & true) / len(true) for one, true in zip(found, right, strict=True)])
    assert recall >= 0.98


def test_filters_join_and_negate(api: Reflected, filled: str, vectors: np.ndarray) -> None:
    both = {
        "all_of": {
            "filters": [
                {"not": {"condition": {"field": "half", "equals": {"bool_value": True}}}},
                {
                    "any_of": {
                        "filters": [
                            {"condition": {"field": "kind", "in": {"values": [{"string_value": "k1"}]}}},
                            {"condition": {"field": "weight", "range": {"lte": 1.0}}},
                        ]
                    }
                },
                {"condition": {"field": "absent", "exists": False}},
            ]
        }
    }
    (found,) = search(api, filled, {"vector": to_bytes(vectors[0])}, filter=both, top_k=1000)
    assert set(ids(found)) == {f"item-{n}" for n in range(COUNT) if n % 2 and (n % 10 == 1 or n <= 10)}


def test_matches_carry_metadata_and_vectors_where_asked_for(api: Reflected, filled: str, vectors: np.ndarray) -> None:
    ((match, *_),) = search(api, filled, {"item_id": "item-7"}, include_metadata=True, include_vectors=True)
    assert match.metadata["n"].integer_value == 7
    assert match.metadata["weight"].float_value == 0.7
    assert list(match.metadata["tags"].string_list.values) == ["all", "t7"]
    assert np.array_equal(from_bytes(match.vector), vectors[7])
    ((plain, *_),) = search(api, filled, {"item_id": "item-7"})
    assert not plain.metadata
    assert not plain.vector


def test_matches_of_a_calibrated_model_have_a_probability(api: Reflected, filled: str) -> None:
    (matches,) = search(api, filled, {"item_id": "item-7"})
    assert matches[0].probability > 0.9
    assert all(0 <= match.probability <= 1 for match in matches)


def test_min_score_cuts_the_tail(api: Reflected, filled: str) -> None:
    (matches,) = search(api, filled, {"item_id": "item-7"}, min_score=0.9999)
    assert ids(matches) == ["item-7"]


def put(api: Reflected, collection: str, **items: tuple[float, ...]) -> None:
    messages = [{"id": name, "vector": to_bytes(np.array(values))} for name, values in items.items()]
    api.call("CollectionService", "UpsertItems", collection=collection, items=messages)


def test_euclidean_scores_are_minus_the_distance(api: Reflected, small: str) -> None:
    put(api, small, near=(3.0, 4.0, 0.0), far=(6.0, 8.0, 0.0))
    (matches,) = search(api, small, {"vector": to_bytes(np.zeros(3))})
    assert [(match.id, match.distance, match.score) for match in matches] == [("near", 5, -5), ("far", 10, -10)]
    assert not matches[0].HasField("probability")


def test_a_picture_is_found_by_the_first_search_after_its_upsert(api: Reflected, photos: dict[str, bytes]) -> None:
    api.call("CollectionService", "CreateCollection", collection={"id": "album", "model": "base"})
    for name, data in photos.items():
        api.call(
            "CollectionService", "UpsertItems", collection="album", items=[{"id": name, "image": {"encoded": data}}]
        )
        (matches,) = search(api, "album", {"image": {"encoded": data}}, top_k=1)
        assert ids(matches) == [name]
    assert api.call("CollectionService", "GetCollection", collection="album").collection.item_count == len(photos)


def test_eight_writers_each_read_their_own_writes(api: Reflected, small: str) -> None:
    def write_and_look(worker: int) -> int:
        found = 0
        for n in range(25):
            place = (worker * 100.0, n * 1.0, 7.0)
            put(api, small, **{f"w{worker}-{n}": place})
            (matches,) = search(api, small, {"vector": to_bytes(np.array(place))}, top_k=1)
            found += ids(matches) == [f"w{worker}-{n}"]
        return found

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write_and_look, range(8))) == [25] * 8


def test_items_are_replaced_read_paged_and_deleted(api: Reflected, small: str) -> None:
    put(api, small, a=(1.0, 0.0, 0.0), b=(2.0, 0.0, 0.0), c=(3.0, 0.0, 0.0))
    put(api, small, a=(9.0, 0.0, 0.0))
    got = api.call("CollectionService", "GetItems", collection=small, ids=["a", "x"], include_vectors=True).results
    assert from_bytes(got[0].item.vector).tolist() == [9, 0, 0]
    assert (got[1].error.code, errors.field(got[1].error)) == (5, "ids[1]")

    listed, token = [], ""
    while True:
        page = api.call("CollectionService", "ListItems", collection=small, page_size=2, page_token=token)
        listed += [result.item.id for result in page.results]
        token = page.next_page_token
        if not token:
            break
    assert listed == ["a", "b", "c"]

    gone = api.call("CollectionService", "DeleteItems", collection=small, ids=["b", "x"])
    assert gone.deleted_count == 1
    assert [result.WhichOneof("result") for result in gone.results] == ["item", "error"]
    (matches,) = search(api, small, {"vector": to_bytes(np.zeros(3))})
    assert ids(matches) == ["c", "a"]


def test_items_are_deleted_by_filter(api: Reflected, small: str) -> None:
    for n in range(4):
        item = {"id": f"i{n}", "vector": to_bytes(np.ones(3)), "metadata": {"n": {"integer_value": n}}}
        api.call("CollectionService", "UpsertItems", collection=small, items=[item])
    low = {"condition": {"field": "n", "range": {"lt": 3.0}}}
    assert api.call("CollectionService", "DeleteItems", collection=small, filter=low).deleted_count == 3
    assert api.call("CollectionService", "GetCollection", collection=small).collection.item_count == 1


def test_what_is_purged_answers_as_what_is_deleted(api: Reflected, small: str) -> None:
    put(api, small, a=(1.0, 0.0, 0.0), b=(2.0, 0.0, 0.0))
    gone = api.call("CollectionService", "DeleteItems", collection=small, ids=["b", "x"], purge=True)
    assert gone.deleted_count == 1
    assert [result.WhichOneof("result") for result in gone.results] == ["item", "error"]
    every = {"condition": {"field": "n", "exists": True}}
    assert api.call("CollectionService", "DeleteItems", collection=small, filter=every, purge=True).deleted_count == 0
    (matches,) = search(api, small, {"vector": to_bytes(np.zeros(3))})
    assert ids(matches) == ["a"]


def refused(api: Reflected, method: str, **fields: object) -> tuple[str, str, str]:
    """Code, reason and field of a call that is refused as a whole."""
    with pytest.raises(grpc.RpcError) as caught:
        api.call("CollectionService", method, **fields)
    status = errors.status_of(caught.value)
    return caught.value.code().name, errors.reason(status), errors.field(status)


ZERO = to_bytes(np.ones(DIMENSION))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"top_k": 0}, ("INVALID_ARGUMENT", "TOP_K_INVALID", "top_k")),
        ({"top_k": -3}, ("INVALID_ARGUMENT", "TOP_K_INVALID", "top_k")),
        ({"top_k": 1001}, ("INVALID_ARGUMENT", "TOP_K_INVALID", "top_k")),
        ({"ef": 5}, ("INVALID_ARGUMENT", "EF_INVALID", "ef")),
        ({"ef": 5000}, ("INVALID_ARGUMENT", "EF_INVALID", "ef")),
        ({"min_score": math.nan}, ("INVALID_ARGUMENT", "MIN_SCORE_INVALID", "min_score")),
        ({"filter": {}}, ("INVALID_ARGUMENT", "FILTER_INVALID", "filter")),
        ({"filter": {"condition": {"field": "x"}}}, ("INVALID_ARGUMENT", "FILTER_INVALID", "filter.condition")),
        ({"filter": {"all_of": {}}}, ("INVALID_ARGUMENT", "FILTER_INVALID", "filter.all_of.filters")),
        ({"queries": []}, ("INVALID_ARGUMENT", "COUNT_INVALID", "queries")),
        ({"collection": "nope"}, ("NOT_FOUND", "COLLECTION_NOT_FOUND", "collection")),
        ({"vector_model_digest": "sha256:x"}, ("FAILED_PRECONDITION", "MODEL_MISMATCH", "vector_model_digest")),
    ],
)
def test_a_bad_search_names_the_rule(
    api: Reflected, filled: str, fields: dict[str, object], expected: tuple[str, str, str]
) -> None:
    request = {"collection": filled, "queries": [{"vector": ZERO}], "top_k": 10} | fields
    assert refused(api, "Search", **request) == expected


@pytest.mark.parametrize("item_id", ["", "x" * 257, "a\nb"])
def test_an_id_that_no_item_can_have_is_an_invalid_query(api: Reflected, filled: str, item_id: str) -> None:
    queries = [{"item_id": item_id}]
    result = api.call("CollectionService", "Search", collection=filled, queries=queries, top_k=1).results[0]
    assert (result.error.code, errors.reason(result.error)) == (3, "ITEM_ID_INVALID")
    assert errors.field(result.error) == "queries[0].item_id"


def test_a_filter_with_too_many_nodes_or_values_is_refused(api: Reflected, filled: str) -> None:
    exists = {"condition": {"field": "n", "exists": True}}
    many = {"any_of": {"filters": [exists] * 300}}
    wide = {"condition": {"field": "n", "in": {"values": [{"integer_value": n} for n in range(1001)]}}}
    for one in (many, wide):
        code, reason, _ = refused(api, "Search", collection=filled, queries=[{"vector": ZERO}], top_k=1, filter=one)
        assert (code, reason) == ("INVALID_ARGUMENT", "FILTER_INVALID")


def test_bounds_on_large_integers_are_exact(api: Reflected) -> None:
    api.call("CollectionService", "CreateCollection", collection={"id": "times", "dimension": 2})
    first = 1_700_000_000_000_000_000  # nanoseconds: a double holds every 256th
    one = to_bytes(np.ones(2))
    items = [{"id": f"{n}", "vector": one, "metadata": {"t": {"integer_value": first + n}}} for n in range(3)]
    api.call("CollectionService", "UpsertItems", collection="times", items=items)
    later = {"condition": {"field": "t", "range": {"gt": float(first + 1), "gt_integer": first + 1}}}
    assert ids(search(api, "times", {"vector": one}, filter=later)[0]) == ["2"]
    assert api.call("CollectionService", "DeleteItems", collection="times", filter=later).deleted_count == 1
    api.call("CollectionService", "DeleteCollection", collection="times")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"collection": "é" * 5000}, "NOT_FOUND"),
        ({"vector_model_digest": "x" * 9000}, "FAILED_PRECONDITION"),
    ],
)
def test_a_long_name_does_not_hide_the_error(api: Reflected, filled: str, fields: dict[str, object], code: str) -> None:
    request = {"collection": filled, "queries": [{"vector": ZERO}], "top_k": 1} | fields
    assert refused(api, "Search", **request)[0] == code


def test_an_answer_over_the_message_limit_is_refused_with_its_reason(api: Reflected) -> None:
    api.call("CollectionService", "CreateCollection", collection={"id": "heavy", "dimension": 2})
    for start in range(0, 200, 100):
        items = [
            {"id": f"{n}", "vector": to_bytes(np.ones(2)), "metadata": {"text": {"string_value": "x" * 60_000}}}
            for n in range(start, start + 100)
        ]
        api.call("CollectionService", "UpsertItems", collection="heavy", items=items)
    queries = [{"vector": to_bytes(np.ones(2))}] * 20
    heavy = {"collection": "heavy", "queries": queries, "top_k": 200, "include_metadata": True}
    assert refused(api, "Search", **heavy) == ("RESOURCE_EXHAUSTED", "ANSWER_TOO_LARGE", "")
    api.call("CollectionService", "CreateCollection", collection={"id": "wide", "dimension": 4096})
    wide = {"id": "a", "vector": to_bytes(np.ones(4096)), "metadata": {"x": {"string_value": "y" * 60_000}}}
    api.call("CollectionService", "UpsertItems", collection="wide", items=[wide])
    too_much = {"collection": "wide", "ids": ["a"] * 1000, "include_vectors": True}
    assert refused(api, "GetItems", **too_much) == ("RESOURCE_EXHAUSTED", "ANSWER_TOO_LARGE", "")
    light = search(api, "heavy", *queries, top_k=200)
    assert [len(matches) for matches in light] == [200] * 20
    for name in ("heavy", "wide"):
        api.call("CollectionService", "DeleteCollection", collection=name)


def test_a_filter_nested_too_deep_is_refused(api: Reflected, filled: str) -> None:
    deep: dict[str, object] = {"condition": {"field": "n", "exists": True}}
    for _ in range(20):
        deep = {"not": deep}
    code, reason, _ = refused(api, "Search", collection=filled, queries=[{"vector": ZERO}], top_k=1, filter=deep)
    assert (code, reason) == ("INVALID_ARGUMENT", "FILTER_INVALID")


@pytest.mark.parametrize(
    ("item", "reason", "field"),
    [
        ({"id": ""}, "ITEM_ID_INVALID", "items[0].id"),
        ({"id": "x" * 257}, "ITEM_ID_INVALID", "items[0].id"),
        ({"id": "a\nb"}, "ITEM_ID_INVALID", "items[0].id"),
        ({"vector": b"123"}, "VECTOR_INVALID", "items[0].vector"),
        ({"vector": to_bytes(np.full(DIMENSION, np.nan))}, "VECTOR_INVALID", "items[0].vector"),
        ({"vector": to_bytes(np.zeros(DIMENSION))}, "VECTOR_INVALID", "items[0].vector"),
        ({"vector": None}, "INPUT_MISSING", "items[0]"),
        ({"vector": None, "image": {"encoded": b"junk"}}, "IMAGE_FORMAT_UNSUPPORTED", "items[0].image.encoded"),
        ({"metadata": {"x": {}}}, "VALUE_MISSING", "items[0].metadata['x']"),
        ({"metadata": {"x": {"float_value": math.nan}}}, "METADATA_INVALID", "items[0].metadata['x']"),
    ],
)
def test_a_bad_item_is_told_why_and_its_neighbour_is_written(
    api: Reflected, filled: str, item: dict[str, object], reason: str, field: str
) -> None:
    message = {name: value for name, value in ({"id": "bad", "vector": ZERO} | item).items() if value is not None}
    good = {"id": "item-0", "vector": ZERO, "metadata": {"n": {"integer_value": 0}}}
    before = api.call("CollectionService", "GetItems", collection=filled, ids=["item-0"], include_vectors=True)
    results = api.call("CollectionService", "UpsertItems", collection=filled, items=[message, good]).results
    assert (results[0].error.code, errors.reason(results[0].error), errors.field(results[0].error)) == (
        3,
        reason,
        field,
    )
    assert results[1].id == "item-0"
    kept = before.results[0].item
    restored = {"id": kept.id, "vector": kept.vector, "metadata": dict(kept.metadata)}
    api.call("CollectionService", "UpsertItems", collection=filled, items=[restored])


def test_a_bad_vector_fails_its_query_alone(api: Reflected, filled: str) -> None:
    nan = np.full(len(ZERO) // 4, np.nan, "<f4").tobytes()
    vectors = [ZERO, nan, b"123", bytes(len(ZERO)), ZERO]
    response = api.call(
        "CollectionService", "Search", collection=filled, queries=[{"vector": one} for one in vectors], top_k=2
    )
    bad = [(result.error.code, errors.field(result.error)) for result in response.results if result.HasField("error")]
    assert bad == [(3, f"queries[{number}].vector") for number in (1, 2, 3)]
    first, last = (response.results[number].matches.matches for number in (0, 4))
    assert len(first) == 2
    assert first == last


def test_a_missing_item_fails_its_query_alone(api: Reflected, filled: str) -> None:
    response = api.call(
        "CollectionService",
        "Search",
        collection=filled,
        queries=[{"item_id": "nope"}, {"item_id": "item-1"}, {"image": {"encoded": b"junk"}}, {}],
        top_k=1,
    )
    bad = [(result.error.code, errors.field(result.error)) for result in response.results if result.HasField("error")]
    assert bad == [(5, "queries[0].item_id"), (3, "queries[2].image.encoded"), (3, "queries[3]")]
    assert response.results[1].matches.matches[0].id == "item-1"


@pytest.mark.parametrize(
    ("collection", "expected"),
    [
        ({"id": "filled", "dimension": 3}, ("ALREADY_EXISTS", "COLLECTION_EXISTS")),
        ({"id": "../up", "dimension": 3}, ("INVALID_ARGUMENT", "COLLECTION_ID_INVALID")),
        ({"id": "", "dimension": 3}, ("INVALID_ARGUMENT", "COLLECTION_ID_INVALID")),
        ({"id": "new"}, ("INVALID_ARGUMENT", "DIMENSION_INVALID")),
        ({"id": "new", "dimension": -1}, ("INVALID_ARGUMENT", "DIMENSION_INVALID")),
        ({"id": "new", "dimension": 7, "model": "base"}, ("INVALID_ARGUMENT", "DIMENSION_INVALID")),
        ({"id": "new", "model": "nope"}, ("NOT_FOUND", "MODEL_NOT_FOUND")),
        ({"id": "new", "dimension": 3, "metric": 99}, ("INVALID_ARGUMENT", "METRIC_INVALID")),
    ],
)
def test_a_collection_that_cannot_be_made_is_refused(
    api: Reflected, filled: str, collection: dict[str, object], expected: tuple[str, str]
) -> None:
    del filled
    assert refused(api, "CreateCollection", collection=collection)[:2] == expected


def test_pictures_are_refused_where_no_model_is_bound_and_vectors_are_not(
    api: Reflected, small: str, photos: dict[str, bytes]
) -> None:
    def unbound(status: Dynamic, field: str) -> bool:
        return (status.code, errors.reason(status), errors.field(status)) == (9, "COLLECTION_UNBOUND", field)

    image, vector = {"image": {"encoded": photos["coffee"]}}, {"vector": to_bytes(np.ones(3))}
    items = [{"id": "a", **image}, {"id": "b", **vector}, {"id": "c", **image}]
    written = api.call("CollectionService", "UpsertItems", collection=small, items=items).results
    assert unbound(written[0].error, "items[0].image")
    assert written[1].id == "b"
    assert unbound(written[2].error, "items[2].image")
    found = api.call("CollectionService", "Search", collection=small, queries=[image, vector], top_k=1).results
    assert unbound(found[0].error, "queries[0].image")
    assert ids(list(found[1].matches.matches)) == ["b"]
    # Of a resumable batch the whole is refused: resuming after it would never write the picture.
    batch = api.message("IngestItemsRequest", collection=small, ingest_id="job", batch=1, items=items)
    (answer,) = api.stream("CollectionService", "IngestItems")(iter([batch]), timeout=30)
    assert unbound(answer.error, "items[0].image")
    assert answer.last_batch == 0


def test_collections_are_listed_by_id_with_their_model(api: Reflected, filled: str) -> None:
    listed = {one.id: one for one in api.call("CollectionService", "ListCollections").collections}
    assert list(listed) == sorted(listed)
    one = listed[filled]
    assert (one.model, one.dimension, one.item_count) == ("base", DIMENSION, COUNT)
    assert one.model_digest.startswith("sha256:")
    assert one.create_time.seconds > 1_700_000_000
