"""Calls that break one rule each, run against the fake (`test_refusals`) and a real server (`e2e/test_refusals`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce

import numpy as np

from twinsight.v1 import types_pb2
from twinsight_client import Client, Filter, ItemError, ItemId, NewItem, TwinsightClientError, field

COLLECTION = "refusals"
"""Of two components under the Euclidean metric, bound to no model."""
GREY = np.full((8, 8, 3), 127, np.uint8)
VECTOR = [1.0, 0.0]
YEAR = field("year")
NAN = float("nan")


def prepare(client: Client) -> None:
    """Makes what the calls are about."""
    client.create_collection(COLLECTION, dimension=2, metric="euclidean")
    client.upsert(COLLECTION, [NewItem("there", VECTOR, {"year": 2000})]).values()


def refusal(client: Client, name: str) -> tuple[str, str, str]:
    """Returns the code, the reason and the field with which a call of `REFUSED`, or its only item, is refused."""
    try:
        answers = REFUSED[name][0](client)
    except TwinsightClientError as error:
        return error.code, error.reason, error.field
    assert isinstance(answers, Iterable), f"{name}: {answers}"
    for answer in answers:
        for one in answer if isinstance(answer, Iterable) else (answer,):
            if isinstance(one, ItemError):
                return one.code, one.reason, one.field
    return "", "", ""


def _upsert(item: NewItem) -> Callable[[Client], object]:
    return lambda client: client.upsert(COLLECTION, [item])


def _find(where: Filter) -> Callable[[Client], object]:
    return lambda client: client.search(COLLECTION, [VECTOR], where=where)


def _search(
    queries: Iterable[list[float] | ItemId] = (VECTOR,),
    *,
    top_k: int = 10,
    ef: int = 0,
    min_score: float | None = None,
) -> Callable[[Client], object]:
    return lambda client: client.search(COLLECTION, queries, top_k=top_k, ef=ef, min_score=min_score)


def _create(name: str, *, dimension: int = 2) -> Callable[[Client], object]:
    return lambda client: client.create_collection(name, dimension=dimension)


def _condition(condition: types_pb2.Condition) -> Filter:
    return Filter(types_pb2.Filter(condition=condition))


_INVALID = "INVALID_ARGUMENT"
_FILTER, _RANGE = (_INVALID, "FILTER_INVALID"), "filter.condition.range"
_DEEP = reduce(lambda inner, _: ~inner, range(16), YEAR.exists())
_METADATA = (_INVALID, "METADATA_INVALID", "items[0].metadata")

REFUSED: dict[str, tuple[Callable[[Client], object], tuple[str, str, str]]] = {
    "no picture": (lambda client: client.embed([]), (_INVALID, "COUNT_INVALID", "images")),
    "257 pictures": (lambda client: client.embed([GREY] * 257), (_INVALID, "COUNT_INVALID", "images")),
    "no pair": (lambda client: client.compare([]), (_INVALID, "COUNT_INVALID", "pairs")),
    "129 pairs": (lambda client: client.compare([(GREY, GREY)] * 129), (_INVALID, "COUNT_INVALID", "pairs")),
    "no item": (lambda client: client.upsert(COLLECTION, []), (_INVALID, "COUNT_INVALID", "items")),
    "1001 items": (
        lambda client: client.upsert(COLLECTION, [NewItem(str(n), VECTOR) for n in range(1001)]),
        (_INVALID, "COUNT_INVALID", "items"),
    ),
    "an item without an id": (_upsert(NewItem("", VECTOR)), (_INVALID, "ITEM_ID_INVALID", "items[0].id")),
    "an id of 257 bytes": (_upsert(NewItem("x" * 257, VECTOR)), (_INVALID, "ITEM_ID_INVALID", "items[0].id")),
    "a line break in an id": (_upsert(NewItem("a\nb", VECTOR)), (_INVALID, "ITEM_ID_INVALID", "items[0].id")),
    "a vector of another dimension": (_upsert(NewItem("a", [1.0])), (_INVALID, "VECTOR_INVALID", "items[0].vector")),
    "a vector with NaN": (_upsert(NewItem("a", [NAN, 1.0])), (_INVALID, "VECTOR_INVALID", "items[0].vector")),
    "a vector too long": (_upsert(NewItem("a", [2e18, 0.0])), (_INVALID, "VECTOR_INVALID", "items[0].vector")),
    "a picture without a model": (
        _upsert(NewItem("a", GREY)),
        ("FAILED_PRECONDITION", "COLLECTION_UNBOUND", "items[0].image"),
    ),
    "65 fields": (_upsert(NewItem("a", VECTOR, {str(n): n for n in range(65)})), _METADATA),
    "a field without a name": (_upsert(NewItem("a", VECTOR, {"": 1})), _METADATA),
    "a field's name of 129 bytes": (_upsert(NewItem("a", VECTOR, {"x" * 129: 1})), _METADATA),
    "64 KiB of empty strings": (_upsert(NewItem("a", VECTOR, {"x": ("",) * 8192})), _METADATA),
    "64 KiB of metadata": (_upsert(NewItem("a", VECTOR, {"x": "y" * 64 * 1024})), _METADATA),
    "metadata with NaN": (
        _upsert(NewItem("a", VECTOR, {"x": NAN})),
        (_INVALID, "METADATA_INVALID", "items[0].metadata['x']"),
    ),
    "an ingest id of 129 bytes": (
        lambda client: client.ingest(COLLECTION, [NewItem("a", VECTOR)], ingest_id="i" * 129),
        (_INVALID, "INGEST_ID_INVALID", "ingest_id"),
    ),
    "no id to get": (lambda client: client.get_items(COLLECTION, []), (_INVALID, "COUNT_INVALID", "ids")),
    "1001 ids to get": (lambda client: client.get_items(COLLECTION, ["a"] * 1001), (_INVALID, "COUNT_INVALID", "ids")),
    "an id that is not there": (
        lambda client: client.get_items(COLLECTION, ["nosuch"]),
        ("NOT_FOUND", "ITEM_NOT_FOUND", "ids[0]"),
    ),
    "an id that can't be": (
        lambda client: client.get_items(COLLECTION, ["x" * 257]),
        (_INVALID, "ITEM_ID_INVALID", "ids[0]"),
    ),
    "no id to delete": (lambda client: client.delete_items(COLLECTION), (_INVALID, "COUNT_INVALID", "ids")),
    "1001 ids to delete": (
        lambda client: client.delete_items(COLLECTION, ["a"] * 1001),
        (_INVALID, "COUNT_INVALID", "ids"),
    ),
    "ids and a filter to delete": (
        lambda client: client.delete_items(COLLECTION, ["a"], where=YEAR == 1),
        (_INVALID, "DELETION_AMBIGUOUS", "filter"),
    ),
    "a bad filter to delete": (
        lambda client: client.delete_items(COLLECTION, where=YEAR.between(NAN, 1)),
        (*_FILTER, _RANGE),
    ),
    "an id to delete that is not there": (
        lambda client: client.delete_items(COLLECTION, ["nosuch"]),
        ("NOT_FOUND", "ITEM_NOT_FOUND", "ids[0]"),
    ),
    "a page below 0": (
        lambda client: list(client.list_items(COLLECTION, page_size=-1)),
        (_INVALID, "PAGE_SIZE_INVALID", "page_size"),
    ),
    "a page of 1001": (
        lambda client: list(client.list_items(COLLECTION, page_size=1001)),
        (_INVALID, "PAGE_SIZE_INVALID", "page_size"),
    ),
    "a page with a bad filter": (
        lambda client: list(client.list_items(COLLECTION, where=YEAR.between(NAN, 1))),
        (*_FILTER, _RANGE),
    ),
    "no query": (_search([]), (_INVALID, "COUNT_INVALID", "queries")),
    "257 queries": (_search([VECTOR] * 257), (_INVALID, "COUNT_INVALID", "queries")),
    "a query of another dimension": (_search([[1.0]]), (_INVALID, "VECTOR_INVALID", "queries[0].vector")),
    "a query for an item that is not there": (
        _search([ItemId("nosuch")]),
        ("NOT_FOUND", "ITEM_NOT_FOUND", "queries[0].item_id"),
    ),
    "a query for an item that can't be": (_search([ItemId("")]), (_INVALID, "ITEM_ID_INVALID", "queries[0].item_id")),
    "top_k 0": (_search(top_k=0), (_INVALID, "TOP_K_INVALID", "top_k")),
    "top_k 1001": (_search(top_k=1001), (_INVALID, "TOP_K_INVALID", "top_k")),
    "ef below top_k": (_search(ef=9), (_INVALID, "EF_INVALID", "ef")),
    "ef 4097": (_search(ef=4097), (_INVALID, "EF_INVALID", "ef")),
    "ef below 0": (_search(ef=-1), (_INVALID, "EF_INVALID", "ef")),
    "min_score NaN": (_search(min_score=NAN), (_INVALID, "MIN_SCORE_INVALID", "min_score")),
    "a bound NaN": (_find(YEAR.between(NAN, 1)), (*_FILTER, _RANGE)),
    "no bound": (_find(_condition(types_pb2.Condition(field="year", range=types_pb2.Range()))), (*_FILTER, _RANGE)),
    "a field without a name in a filter": (_find(field("") == 1), (*_FILTER, "filter.condition.field")),
    "a field's name of 129 bytes in a filter": (_find(field("x" * 129) == 1), (*_FILTER, "filter.condition.field")),
    "NaN in a filter": (_find(YEAR.equals(NAN)), (*_FILTER, "filter.condition.equals")),
    "NaN among values": (_find(YEAR.is_in([1.0, NAN])), (*_FILTER, "filter.condition.in.values[1]")),
    "1001 values": (_find(YEAR.is_in(range(1001))), (*_FILTER, "filter.condition.in")),
    "no test": (_find(_condition(types_pb2.Condition(field="year"))), (*_FILTER, "filter.condition")),
    "no value": (
        _find(_condition(types_pb2.Condition(field="year", equals=types_pb2.Value()))),
        (_INVALID, "VALUE_MISSING", "filter.condition.equals"),
    ),
    "an empty filter": (_find(Filter(types_pb2.Filter())), (*_FILTER, "filter")),
    "no filter to hold": (
        _find(Filter(types_pb2.Filter(all_of=types_pb2.FilterList()))),
        (*_FILTER, "filter.all_of.filters"),
    ),
    "a filter of 17 levels": (_find(_DEEP), (*_FILTER, "filter" + ".not" * 16)),
    "a filter of 257 nodes": (
        _find(reduce(lambda left, right: left & right, [YEAR.equals(n) for n in range(256)])),
        (*_FILTER, "filter.all_of.filters[255]"),
    ),
    "a filter of 11,000 values": (
        _find(reduce(lambda left, right: left & right, [YEAR.is_in(range(1000))] * 11)),
        (*_FILTER, "filter.all_of.filters[10].condition.in"),
    ),
    "a collection with a slash": (_create("a/b"), (_INVALID, "COLLECTION_ID_INVALID", "collection.id")),
    "a collection with a dot before": (_create(".a"), (_INVALID, "COLLECTION_ID_INVALID", "collection.id")),
    "a collection of 65 letters": (_create("a" * 65), (_INVALID, "COLLECTION_ID_INVALID", "collection.id")),
    "a collection without a name": (_create(""), (_INVALID, "COLLECTION_ID_INVALID", "collection.id")),
    "a collection of no dimension": (
        _create("new", dimension=0),
        (_INVALID, "DIMENSION_INVALID", "collection.dimension"),
    ),
    "a collection of 4097 dimensions": (
        _create("new", dimension=4097),
        (_INVALID, "DIMENSION_INVALID", "collection.dimension"),
    ),
    "a collection that is there": (_create(COLLECTION), ("ALREADY_EXISTS", "COLLECTION_EXISTS", "collection.id")),
    "a collection that is not there": (
        lambda client: client.get_collection("nosuch"),
        ("NOT_FOUND", "COLLECTION_NOT_FOUND", "collection"),
    ),
    "a model that is not there": (lambda client: client.get_model("nosuch"), ("NOT_FOUND", "MODEL_NOT_FOUND", "model")),
    "health of a service that is not there": (lambda client: client.health("nosuch"), ("NOT_FOUND", "", "")),
}
"""By what is wrong: the call, and the code, the reason and the field of the refusal."""
