"""How much callers of a real server may have: rates, places, and what they store."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from e2e.access import METHODS, Access, access_controlled, call, new_key
from e2e.conftest import Dynamic, until
from e2e.errors import reason, retry_after_s, status_of
from twinsight_client import (
    AlreadyExists,
    Client,
    NewItem,
    ResourceExhausted,
)

CALLS = int(os.environ.get("TWINSIGHT_TEST_CALLS", "30"))
"""How many calls one key makes beside another's flood; more for a long run."""


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Access]:
    with access_controlled(tmp_path_factory.mktemp("access"), cache_dir) as made:
        yield made


def test_a_rate_is_refused_with_the_time_and_the_client_waits_for_it(access: Access) -> None:
    with grpc.insecure_channel(access.server.address) as channel:
        method = next(one for one in METHODS if one.name == "ListModels")
        token = (("x-api-key", access.slow),)
        call(channel, method, token)
        with pytest.raises(grpc.RpcError) as refused:
            call(channel, method, token)
        assert reason(status_of(refused.value)) == "KEY_CALL_RATE"
        assert 0 < retry_after_s(refused.value) <= 2
    with Client(access.server.address, token=access.slow) as client:
        assert client.list_models()


def test_bytes_that_are_no_message_count_towards_a_rate_too(access: Access) -> None:
    with grpc.insecure_channel(access.server.address) as channel:
        garbled: Dynamic = channel.unary_unary("/twinsight.v1.CollectionService/Search")
        told: list[str] = []
        for number in range(2):
            with pytest.raises(grpc.RpcError) as refused:
                garbled(
                    b"\xff", metadata=(("x-api-key", access.slow), ("x-request-id", f"garbled-{number}")), timeout=30
                )
            told.append(reason(status_of(refused.value)))
            answered: Dynamic = refused.value
            assert dict(answered.trailing_metadata())["x-request-id"] == f"garbled-{number}"
    assert told[1] == "KEY_CALL_RATE"
    noted = [line for line in access.audit() if str(line["request_id"]).startswith("garbled-")]
    assert [(line["method"], line["reason"]) for line in noted] == [("Search", one) for one in told]


def test_what_is_stored_has_its_limits(access: Access) -> None:
    with access.client(access.owner) as owner:
        owner.create_collection("full", dimension=2)
        try:
            with pytest.raises(ResourceExhausted, match=r"as many collections as it may have \(limit 3\)\.$") as told:
                owner.create_collection("more", dimension=2)
            assert (told.value.reason, told.value.retry_after_s) == ("COLLECTIONS_LIMIT", None)
            with pytest.raises(AlreadyExists):  # as who makes sure of its collections at each start expects
                owner.create_collection("full", dimension=2)
            five = [NewItem(str(number), [1.0, 0.0]) for number in range(5)]
            owner.upsert("full", five).values()
            owner.upsert("full", five[:3]).values()  # they are there already
            with pytest.raises(ResourceExhausted, match="limit of 5 items; 1 more would not fit") as told:
                owner.upsert("full", [*five[:2], NewItem("new", [1.0, 0.0])])
            assert (told.value.reason, told.value.retry_after_s) == ("COLLECTION_ITEMS_LIMIT", None)
            owner.delete_items("full", ["0"])
            owner.upsert("full", [NewItem("new", [1.0, 0.0])]).values()
            owner.delete_items("full", ["1"])
            bad = owner.upsert("full", [NewItem("newer", [1.0, 0.0]), NewItem("bad", [0.0, 0.0])])
            assert [error.index for error in bad.errors()] == [1]  # and takes no room from its neighbour
            with pytest.raises(ResourceExhausted, match="limit of 5 items; 2 more would not fit"):
                owner.upsert("full", [NewItem("newest", [1.0, 0.0]), NewItem("bad", [0.0, 0.0])])
        finally:
            owner.delete_collection("full")


def test_a_key_has_so_many_collections_of_those_it_may_admin(access: Access) -> None:
    key = new_key(access.file, "tenant", "search,admin", "photos,tenant-*", "--max-collections", "2")
    until(lambda: access.knows(key))
    with access.client(access.owner) as owner, access.client(key) as tenant:
        owner.delete_collection("secret")  # makes room below the limit of all
        try:
            tenant.create_collection("tenant-a", dimension=2)
            with pytest.raises(
                ResourceExhausted, match=r"^Collections that the caller may `admin`: 2 \(limit 2\)\."
            ) as told:
                tenant.create_collection("tenant-b", dimension=2)
            assert (told.value.reason, told.value.retry_after_s) == ("KEY_COLLECTIONS_LIMIT", None)
            owner.create_collection("secret", dimension=2)  # others have their own
            tenant.delete_collection("tenant-a")
            tenant.create_collection("tenant-b", dimension=2)
        finally:
            owner.delete_collection("tenant-b")
            if "secret" not in {one.id for one in owner.list_collections()}:
                owner.create_collection("secret", dimension=2)
            owner.upsert("secret", [NewItem("a", [1.0, 0.0])]).values()


def test_one_key_cannot_starve_another(access: Access, photos: dict[str, bytes]) -> None:
    over, refused = threading.Event(), threading.Event()
    pictures = [photos["coins"]] * 64

    def flood() -> None:
        with access.client(access.busy) as client:
            while not over.is_set():
                try:
                    client.embed(pictures)
                except ResourceExhausted as error:
                    assert error.reason in {"KEY_CALLS_FULL", "QUEUE_FULL", "CALLS_FULL"}  # noqa: PT017
                    refused.set()

    with ThreadPoolExecutor(6) as pool, access.client(access.reader) as other:
        floods = [pool.submit(flood) for _ in range(6)]
        try:
            assert refused.wait(60)
            for _ in range(CALLS):
                other.search("photos", [[1.0, 0.0]]).values()
        finally:
            over.set()
        for one in floods:
            one.result(60)


def test_what_a_key_is_given_counts_towards_its_items(access: Access) -> None:
    key = new_key(access.file, "taker", "read", "photos*", "--items-per-s", "0.01")
    until(lambda: access.knows(key))
    with access.client(access.owner) as owner, access.client(key) as taker:
        owner.upsert("photos", [NewItem(f"given-{n}", [1.0, n]) for n in range(3)]).values()
        list(taker.list_items("photos"))
        with pytest.raises(ResourceExhausted) as refused:
            taker.search("photos", [[1.0, 0.0]], top_k=1)
        assert refused.value.reason == "KEY_ITEM_RATE"
        assert (refused.value.retry_after_s or 0) > 200, "a page by itself is owed for 100 s"
        owner.delete_items("photos", [f"given-{n}" for n in range(3)])
