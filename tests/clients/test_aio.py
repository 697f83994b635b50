"""The asyncio client: the same requests and answers as the sync one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

import numpy as np
import pytest

from twinsight_client import AsyncClient, Client, HealthStatus, ItemError, ItemId, NewItem, NotFound, field
from twinsight_client.testing import AsyncFakeClient

from .conftest import WireServer

pytestmark = pytest.mark.client

Draw = Callable[[int], bytes]
Run = Callable[[Callable[[AsyncClient], Awaitable[None]]], None]


@pytest.fixture(params=["grpc", "fake"])
def run(request: pytest.FixtureRequest, wire: WireServer) -> Run:
    async def with_client(story: Callable[[AsyncClient], Coroutine[None, None, None]]) -> None:
        async with AsyncClient(wire.address) if request.param == "grpc" else AsyncFakeClient(wire.memory) as client:
            await story(client)

    return lambda story: asyncio.run(with_client(story))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(kind).items()
            if inspect.isfunction(member) and not name.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)
    assert len(methods(Client)) == 20


def test_pictures_are_embedded_compared_and_found(run: Run, picture: Draw) -> None:
    async def story(client: AsyncClient) -> None:
        assert await client.health() is HealthStatus.SERVING
        await client.wait_ready()
        results = await client.embed([picture(1), b"broken"])
        assert [error.reason for error in results.errors()] == ["IMAGE_FORMAT_UNSUPPORTED"]
        (embedding,) = results.successes()
        (comparison,) = (await client.compare([(picture(1), embedding.vector)], target_fmr=0.1)).values()
        assert comparison.cosine_similarity == pytest.approx(1, abs=1e-6)
        assert (comparison.threshold, comparison.target_fmr) == (0.3, 0.1)
        (labels,) = (await client.classify([picture(1)], top_k=2)).values()
        assert len(labels) == 2
        (found,) = (await client.detect([picture(1)], score_threshold=0, max_detections=1)).values()
        assert len(found) == 1

        made = await client.create_collection("c", model=(await client.get_model()).name)
        assert made == await client.get_collection("c")
        assert [one.id for one in await client.list_collections()] == ["c"]
        items = [NewItem(f"p{n}", picture(n), {"n": n}) for n in range(3)]
        assert (await client.upsert("c", items)).values() == ["p0", "p1", "p2"]
        nearest = await client.search("c", [picture(2), ItemId("p1")], top_k=1, where=field("n") >= 1)
        assert [[match.id for match in matches] for matches in nearest.values()] == [["p2"], ["p1"]]
        assert (await client.get_items("c", ["p1"])).values()[0].metadata == {"n": 1}
        assert (await client.delete_items("c", ["p1"])).deleted_count == 1
        pages = [[item.id for item in page.values()] async for page in client.list_items("c", page_size=1)]
        assert pages == [["p0"], ["p2"]]
        await client.delete_collection("c")
        with pytest.raises(NotFound, match=r"^Collection `c` does not exist; available: none\.$"):
            await client.search("c", [[1.0]])
        assert [card.name for card in await client.list_models()] == ["fake", "fake-classifier", "fake-detector"]

    run(story)


def test_streams_take_async_and_plain_iterables(run: Run, picture: Draw) -> None:
    async def pictures() -> AsyncIterator[bytes]:
        for number in range(3):
            yield picture(number)

    async def story(client: AsyncClient) -> None:
        answers = [answer async for batch in client.embed_stream(pictures(), batch_size=2) for answer in batch]
        expected = await client.embed([picture(number) for number in range(3)])
        for left, right in zip(answers, expected, strict=True):
            assert not isinstance(left, ItemError)
            assert not isinstance(right, ItemError)
            assert np.array_equal(left.vector, right.vector)

    run(story)


def test_ingest_resumes_after_the_last_batch(run: Run) -> None:
    async def story(client: AsyncClient) -> None:
        await client.create_collection("c", dimension=1)
        items = [NewItem(f"i{n}", [1.0]) for n in range(5)]
        batches = [batch async for batch in client.ingest("c", items[:4], ingest_id="bulk", batch_size=2)]
        assert [batch.last_batch for batch in batches] == [2, 4]
        rest = [batch async for batch in client.ingest("c", items, ingest_id="bulk", batch_size=2)]
        assert [batch.values() for batch in rest] == [["i4"]]

    run(story)


def test_a_client_may_be_made_outside_of_any_event_loop(wire: WireServer) -> None:
    client = AsyncClient(wire.address)

    async def story() -> None:
        async with client:
            assert await client.health() is HealthStatus.SERVING

    asyncio.run(story())


def test_cancelling_a_task_cancels_its_call(wire: WireServer) -> None:
    async def story() -> None:
        async with AsyncClient(wire.address) as client:
            task = asyncio.create_task(client.list_models())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.health() is HealthStatus.SERVING

    asyncio.run(story())
