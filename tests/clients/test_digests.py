"""Embeddings know their model: its digest is sent with them, and those of another are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from twinsight_client import (
    AsyncClient,
    Client,
    Embedding,
    FailedPrecondition,
    InvalidArgument,
    ItemError,
    ItemId,
    NewItem,
    TwinsightClientError,
)
from twinsight_client.digests import vector_digest
from twinsight_client.testing import AsyncFakeClient, FakeClient, MemoryServer

from .conftest import WireServer

pytestmark = pytest.mark.client

Draw = Callable[[int], bytes]
Call = Callable[[Client, Embedding, str], object]
FIRST, SECOND = (Embedding(np.ones(1, np.float32), f"sha256:{name}") for name in "ab")


def _ingest(client: Client, embedding: Embedding, digest: str) -> list[str]:
    batches = list(client.ingest("photos", [NewItem("b", embedding)], vector_model_digest=digest))
    return [one for batch in batches for one in batch.values()]


CALLS: dict[str, Call] = {
    "upsert": lambda client, embedding, digest: client.upsert(
        "photos", [NewItem("a", [1.0] * 16), NewItem("b", embedding)], vector_model_digest=digest
    ).values(),
    "ingest": _ingest,
    "search": lambda client, embedding, digest: client.search(
        "photos", [ItemId("p"), embedding], vector_model_digest=digest
    ).values(),
    "compare": lambda client, embedding, digest: client.compare(
        [([1.0] * 16, embedding)], model="fake", vector_model_digest=digest
    ).values(),
}


@pytest.fixture
def memory(wire: WireServer, picture: Draw) -> MemoryServer:
    """A server with two models, and a collection that is bound to one of them."""
    wire.memory = MemoryServer(models=("fake", "other"))
    with FakeClient(wire.memory) as client:
        client.create_collection("photos", model="fake")
        client.upsert("photos", [NewItem("p", picture(1))]).values()
    return wire.memory


@pytest.fixture(params=["grpc", "fake"])
def client(request: pytest.FixtureRequest, wire: WireServer, memory: MemoryServer) -> Iterator[Client]:
    with Client(wire.address) if request.param == "grpc" else FakeClient(memory) as client:
        yield client


def test_an_embedding_has_the_digest_of_its_model(client: Client, picture: Draw) -> None:
    for model in ("fake", "other"):
        results = client.embed([picture(1), b"no picture"], model=model)
        streamed = [batch[0] for batch in client.embed_stream([picture(1)], model=model)]
        for one in (results[0], *streamed):
            assert isinstance(one, Embedding)
            assert one.model_digest == results.model.digest == client.get_model(model).digest


@pytest.mark.parametrize("name", CALLS)
def test_embeddings_are_taken_where_their_model_is_the_one_and_refused_where_it_is_not(
    client: Client, picture: Draw, name: str
) -> None:
    own, foreign = (client.embed([picture(1)], model=model).values()[0] for model in ("fake", "other"))
    assert CALLS[name](client, own, "")
    with pytest.raises(FailedPrecondition) as raised:
        CALLS[name](client, foreign, "")
    assert raised.value.reason == "MODEL_MISMATCH"
    assert CALLS[name](client, Embedding(foreign.vector), "")


@pytest.mark.parametrize("name", CALLS)
def test_an_embedding_of_another_model_than_the_digest_given_is_not_sent(
    wire: WireServer, memory: MemoryServer, picture: Draw, name: str
) -> None:
    with Client(wire.address) as client:
        own, foreign = (client.embed([picture(1)], model=model).values()[0] for model in ("fake", "other"))
        assert CALLS[name](client, own, own.model_digest)
        requests = record(memory)
        with pytest.raises(InvalidArgument, match=r"vectors are only comparable within one model\.$") as raised:
            CALLS[name](client, foreign, own.model_digest)
    assert raised.value.reason == "CLIENT_CHECK"
    assert raised.value.field.endswith("vector")
    assert requests == []


def record(memory: MemoryServer) -> list[object]:
    """Returns what the server is sent from here on."""
    requests: list[object] = []
    answer = memory.answer

    def recorded(request: object) -> object:
        requests.append(request)
        return answer(request)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    memory.answer = recorded  # type: ignore[method-assign,assignment]  # pyright: ignore[reportAttributeAccessIssue]
    return requests


def test_embeddings_of_two_models_in_one_request_are_refused_by_place(client: Client, picture: Draw) -> None:
    own, foreign = (client.embed([picture(1)], model=model).values()[0] for model in ("fake", "other"))
    calls: dict[str, Callable[[], object]] = {
        "items[2].vector": lambda: client.upsert(
            "photos", [NewItem("a", own), NewItem("b", picture(2)), NewItem("c", foreign)]
        ),
        "queries[1].vector": lambda: client.search("photos", [own, foreign]),
        "pairs[0].right.vector": lambda: client.compare([(own, foreign)]),
    }
    for path, call in calls.items():
        with pytest.raises(InvalidArgument) as raised:
            call()
        assert (raised.value.reason, raised.value.field) == ("CLIENT_CHECK", path)
    with pytest.raises(InvalidArgument, match=r"^`items\[1\]\.vector` is an embedding of model"):
        list(client.ingest("photos", [NewItem("a", own), NewItem("b", foreign)]))
    assert client.get_collection("photos").item_count == 1


def test_the_digest_sent_is_the_callers_or_that_of_the_first_embedding_that_has_one() -> None:
    contents = [("a", [1.0]), ("b", Embedding(FIRST.vector)), ("c", FIRST), ("d", FIRST), ("e", ItemId("x"))]
    assert vector_digest([], given="") == ""
    assert vector_digest(contents[:2], given="") == ""
    assert vector_digest(contents, given="") == vector_digest(contents, given="sha256:a") == "sha256:a"
    with pytest.raises(InvalidArgument) as raised:
        vector_digest([*contents, ("f", SECOND)], given="")
    assert raised.value.message == (
        "`f` is an embedding of model `sha256:b`, but `c` is of `sha256:a`; vectors are only comparable within one "
        "model."
    )
    with pytest.raises(
        InvalidArgument, match="`c` is an embedding of model `sha256:a`, but `vector_model_digest` is of"
    ):
        vector_digest(contents, given="sha256:b")


@pytest.mark.parametrize("kind", ["grpc", "fake"])
def test_asyncio_sends_the_digest_too(wire: WireServer, memory: MemoryServer, picture: Draw, kind: str) -> None:
    async def reasons(client: AsyncClient, model: str) -> list[str]:
        (one,) = (await client.embed([picture(1)], model=model)).values()
        found = []
        for call in (
            client.upsert("photos", [NewItem("a", one)]),
            client.search("photos", [one]),
            client.compare([(one, picture(1))], model="fake"),
        ):
            try:
                (await call).values()
                found.append("")
            except TwinsightClientError as error:
                found.append(error.reason)
        try:
            batches = [batch async for batch in client.ingest("photos", [NewItem("a", one)])]
            found += [one.reason if isinstance(one, ItemError) else "" for batch in batches for one in batch]
        except TwinsightClientError as error:
            found.append(error.reason)
        return found

    async def story() -> list[list[str]]:
        async with AsyncClient(wire.address) if kind == "grpc" else AsyncFakeClient(memory) as client:
            return [await reasons(client, model) for model in ("fake", "other")]

    assert asyncio.run(story()) == [[""] * 4, ["MODEL_MISMATCH"] * 4]
