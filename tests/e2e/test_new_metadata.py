"""The fields of stored items are changed without their pictures or vectors, by a real server and by the fake alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e import errors
from e2e.conftest import Reflected
from twinsight_client import KEEP_VECTOR, Client, ItemError, NewItem, field
from twinsight_client.testing import FakeClient
from twinsight_server.app import Server


@pytest.fixture(params=["server", "fake"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    if request.param == "fake":
        yield FakeClient()
        return
    server: Server = request.getfixturevalue("server")
    with Client(server.address) as made:
        yield made


def test_new_fields_take_the_place_of_the_old_ones_and_the_vector_stays(client: Client) -> None:
    client.create_collection("prices", dimension=2)
    client.upsert("prices", [NewItem(name, [number, 1.0], {"price": 10}) for number, name in enumerate("abc")]).values()
    results = client.upsert(
        "prices",
        [
            NewItem("a", KEEP_VECTOR, {"price": 7, "sale": True}),
            NewItem("none", KEEP_VECTOR, {"price": 1}),
            NewItem("b", KEEP_VECTOR),
        ],
    )
    assert [one for one in results if not isinstance(one, ItemError)] == ["a", "b"]
    (error,) = [one for one in results if isinstance(one, ItemError)]
    assert (error.index, error.code, error.reason, error.field) == (1, "NOT_FOUND", "ITEM_NOT_FOUND", "items[1].id")
    found = client.get_items("prices", ["a", "b", "c"], include_vectors=True).values()
    assert [(one.metadata, None if one.vector is None else one.vector.tolist()) for one in found] == [
        ({"price": 7, "sale": True}, [0.0, 1.0]),
        ({}, [1.0, 1.0]),
        ({"price": 10}, [2.0, 1.0]),
    ]
    (cheap,) = client.search("prices", [[0.0, 1.0]], where=field("price") < 10).values()
    assert [match.id for match in cheap] == ["a"]
    written = [one for batch in client.ingest("prices", [NewItem("c", KEEP_VECTOR, {"price": 3})]) for one in batch]
    assert written == ["c"]


def test_what_is_not_to_be_kept_has_no_vector(api: Reflected) -> None:
    api.call("CollectionService", "CreateCollection", collection={"id": "kept", "dimension": 2})
    items = [{"id": "a", "keep_vector": False}]
    (result,) = api.call("CollectionService", "UpsertItems", collection="kept", items=items).results
    assert (errors.reason(result.error), errors.field(result.error)) == ("INPUT_MISSING", "items[0]")
