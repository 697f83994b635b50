"""What the things of a stream raise, whatever it is, and how long calls may take."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from twinsight_client import AsyncClient, Client, InvalidArgument, NewItem
from twinsight_client.deadlines import checked_timeout
from twinsight_client.testing import FakeClient

from .conftest import WireServer

pytestmark = pytest.mark.client

ERRORS: list[Callable[[], BaseException]] = [
    lambda: SystemExit("row 6 has no picture"),
    KeyboardInterrupt,
    asyncio.CancelledError,
    lambda: ValueError("x"),
]


@pytest.mark.parametrize("make", ERRORS, ids=lambda make: repr(make()))
def test_what_the_things_raise_is_raised_after_the_answers_before_it(
    wire: WireServer, make: Callable[[], BaseException]
) -> None:
    error = make()

    def pictures() -> Iterator[bytes]:
        yield from (b"one", b"two")
        raise error

    answers: list[int] = []
    found: BaseException | None = None
    with Client(wire.address) as client:
        try:
            answers.extend(len(batch) for batch in client.embed_stream(pictures(), batch_size=1))
        except BaseException as raised:  # noqa: BLE001 - the point of this test
            found = raised
    assert found is error
    assert answers == [1, 1]


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("make", ERRORS, ids=lambda make: repr(make()))
def test_so_is_it_from_asyncio(wire: WireServer, make: Callable[[], BaseException], kind: str) -> None:
    error = make()

    def plain() -> Iterator[bytes]:
        yield b"one"
        raise error

    async def pictures() -> AsyncIterator[bytes]:
        yield b"one"
        raise error

    async def story() -> BaseException | None:
        async with AsyncClient(wire.address) as client:
            try:
                async for _ in client.embed_stream(plain() if kind == "plain" else pictures(), batch_size=1):
                    pass
            except BaseException as raised:  # noqa: BLE001 - as above
                return raised
        return None

    assert type(asyncio.run(asyncio.wait_for(story(), 30))) is type(error)


def test_sources_that_block_neither_stop_other_calls_nor_keep_the_loop_from_ending(wire: WireServer) -> None:
    more, ended = threading.Event(), threading.Semaphore(0)

    def blocking() -> Iterator[bytes]:
        try:
            yield b"one"
            more.wait()
            yield b"two"
        finally:
            ended.release()

    async def story() -> int:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        async with AsyncClient(wire.address) as client:
            streams = [aiter(client.embed_stream(blocking(), batch_size=1)) for _ in range(3)]
            for stream in streams:
                await anext(stream)
            return len(await client.embed([b"x"], timeout_s=20))

    async def limited() -> int:
        return await asyncio.wait_for(story(), 30)

    assert asyncio.run(limited()) == 1
    assert not ended.acquire(blocking=False)
    more.set()
    assert all(ended.acquire(timeout=20) for _ in range(3))


def test_a_plain_source_sees_the_callers_context(wire: WireServer) -> None:
    name = ContextVar[str]("name")
    seen: list[str] = []

    def pictures() -> Iterator[bytes]:
        seen.append(name.get())
        yield b"one"

    async def story() -> None:
        name.set("request 7")
        async with AsyncClient(wire.address) as client:
            assert [len(batch) async for batch in client.embed_stream(pictures())] == [1]

    asyncio.run(story())
    assert seen == ["request 7"]


@pytest.mark.parametrize("timeout_s", [1e10, 1e300, math.inf])
def test_a_call_may_take_as_long_as_it_likes(wire: WireServer, timeout_s: float) -> None:
    with Client(wire.address, timeout_s=timeout_s) as client:
        assert client.list_models()
        assert client.list_models(timeout_s=timeout_s)
        client.wait_ready(timeout_s=timeout_s)
        client.create_collection("c", dimension=1)
        assert len(list(client.ingest("c", [NewItem("a", [1.0])], timeout_s=timeout_s))) == 1
    assert checked_timeout(timeout_s) < 2**53


@pytest.mark.parametrize("timeout_s", [-1.0, math.nan, -math.inf])
@pytest.mark.parametrize("kind", ["grpc", "fake"])
def test_a_timeout_that_is_none_is_refused(wire: WireServer, timeout_s: float, kind: str) -> None:
    with FakeClient() if kind == "fake" else Client(wire.address) as client:
        for call in (
            lambda: client.list_models(timeout_s=timeout_s),
            lambda: client.wait_ready(timeout_s=timeout_s),
            lambda: list(client.embed_stream([b"x"], timeout_s=timeout_s)),
            lambda: list(client.ingest("c", [], timeout_s=timeout_s)),
        ):
            with pytest.raises(InvalidArgument, match=r"`timeout_s` .* must be at least 0") as refused:
                call()
            assert refused.value.reason == "CLIENT_CHECK"
