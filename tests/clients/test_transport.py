"""What travels beside the messages: deadlines, ids, times, details, limits, and when a call is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from google.rpc import status_pb2

from twinsight_client import (
    AsyncClient,
    Cancelled,
    ChannelOptions,
    Client,
    DeadlineExceeded,
    ItemError,
    NewItem,
    NotFound,
    ResourceExhausted,
    RetryPolicy,
    TwinsightClientError,
    Unavailable,
)
from twinsight_client.status import is_too_large
from twinsight_client.transport import GrpcTransport
from twinsight_client.transport_aio import AsyncGrpcTransport

from .conftest import WireServer

pytestmark = pytest.mark.client

NewStatus = Callable[..., status_pb2.Status]
ITEM = NewItem("a", [1.0])


class Waits:
    """Stands for time.sleep and asyncio.sleep: takes no time, moves the clock, and remembers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture(params=["sync", "asyncio"])
def attempt(request: pytest.FixtureRequest, wire: WireServer, waits: Waits) -> Callable[[str], object]:
    """Runs one of CALLS over a real channel whose waits take no time, with the sync or the asyncio client."""
    options, retry = ChannelOptions(), RetryPolicy(attempts=3)

    def run_sync(name: str) -> object:
        transport = GrpcTransport(
            wire.address, tls=None, options=options, retry=retry, sleep=waits.sleep, clock=waits.clock
        )
        with Client(transport=transport) as client:
            return CALLS[name](client)

    async def run_async(name: str) -> object:
        transport = AsyncGrpcTransport(
            wire.address, tls=None, options=options, retry=retry, sleep=waits.sleep_async, clock=waits.clock
        )
        async with AsyncClient(transport=transport) as client:
            return await ASYNC_CALLS[name](client)

    if request.param == "sync":
        return run_sync
    return lambda name: asyncio.run(run_async(name))


CALLS: dict[str, Callable[[Client], object]] = {
    "Embed": lambda client: client.embed([b"x"]),
    "Compare": lambda client: client.compare([([1.0], [1.0])]),
    "Search": lambda client: client.search("c", [[1.0]]),
    "GetCollection": lambda client: client.get_collection("c"),
    "ListCollections": lambda client: client.list_collections(),
    "GetItems": lambda client: client.get_items("c", ["a"]),
    "ListItems": lambda client: list(client.list_items("c")),
    "ListModels": lambda client: client.list_models(),
    "GetModel": lambda client: client.get_model(),
    "UpsertItems": lambda client: client.upsert("c", [ITEM]),
    "CreateCollection": lambda client: client.create_collection("new", dimension=1),
    "DeleteCollection": lambda client: client.delete_collection("c"),
    "DeleteItems": lambda client: client.delete_items("c", ["a"]),
    "EmbedStream": lambda client: list(client.embed_stream([b"x"])),
    "IngestItems": lambda client: list(client.ingest("c", [ITEM])),
    "Check": lambda client: client.health(),
}


async def _list_items(client: AsyncClient) -> object:
    return [page async for page in client.list_items("c")]


async def _embed_stream(client: AsyncClient) -> object:
    return [batch async for batch in client.embed_stream([b"x"])]


async def _ingest(client: AsyncClient) -> object:
    return [batch async for batch in client.ingest("c", [ITEM])]


ASYNC_CALLS: dict[str, Callable[[AsyncClient], Awaitable[object]]] = {
    "Embed": lambda client: client.embed([b"x"]),
    "Compare": lambda client: client.compare([([1.0], [1.0])]),
    "Search": lambda client: client.search("c", [[1.0]]),
    "GetCollection": lambda client: client.get_collection("c"),
    "ListCollections": lambda client: client.list_collections(),
    "GetItems": lambda client: client.get_items("c", ["a"]),
    "ListItems": _list_items,
    "ListModels": lambda client: client.list_models(),
    "GetModel": lambda client: client.get_model(),
    "UpsertItems": lambda client: client.upsert("c", [ITEM]),
    "CreateCollection": lambda client: client.create_collection("new", dimension=1),
    "DeleteCollection": lambda client: client.delete_collection("c"),
    "DeleteItems": lambda client: client.delete_items("c", ["a"]),
    "EmbedStream": _embed_stream,
    "IngestItems": _ingest,
    "Check": lambda client: client.health(),
}
SAFE = [
    "Embed", "Compare", "Search", "GetCollection", "ListCollections", "GetItems", "ListItems", "ListModels", "GetModel",
    "UpsertItems",
]  # fmt: skip
UNSAFE = ["CreateCollection", "DeleteCollection", "DeleteItems", "EmbedStream", "IngestItems", "Check"]


@pytest.fixture
def collection(wire: WireServer) -> None:
    with Client(wire.address) as client:
        client.create_collection("c", dimension=1)
        client.upsert("c", [ITEM])
    wire.calls.clear()


@pytest.mark.usefixtures("collection")
@pytest.mark.parametrize("name", SAFE)
def test_reads_and_upserts_are_sent_again_until_they_get_through(
    attempt: Callable[[str], object], wire: WireServer, waits: Waits, new_status: NewStatus, name: str
) -> None:
    wire.refusals.extend(
        [new_status("UNAVAILABLE", "Draining."), new_status("RESOURCE_EXHAUSTED", "Full.", retry_after_s=2)]
    )
    attempt(name)
    assert wire.methods() == [name] * 3
    assert len({call.request_id for call in wire.calls}) == 1
    assert 0.05 <= waits.slept[0] <= 0.1
    assert 2.1 <= waits.slept[1] <= 2.2


@pytest.mark.usefixtures("collection")
@pytest.mark.parametrize("name", UNSAFE)
def test_what_must_not_happen_twice_is_sent_once(
    attempt: Callable[[str], object], wire: WireServer, waits: Waits, new_status: NewStatus, name: str
) -> None:
    wire.refusals.append(new_status("UNAVAILABLE", "Draining.", reason="DRAINING"))
    with pytest.raises(Unavailable, match=r"^Draining\.$") as raised:
        attempt(name)
    assert raised.value.reason == "DRAINING"
    assert wire.methods() == [name]
    assert waits.slept == []


@pytest.mark.usefixtures("collection")
@pytest.mark.parametrize("name", ["CreateCollection", "DeleteCollection", "DeleteItems"])
def test_what_was_refused_before_it_happened_is_sent_again(
    attempt: Callable[[str], object], wire: WireServer, waits: Waits, new_status: NewStatus, name: str
) -> None:
    wire.refusals.append(new_status("RESOURCE_EXHAUSTED", "Full.", reason="KEY_CALL_RATE", retry_after_s=2))
    attempt(name)
    assert wire.methods() == [name] * 2
    assert waits.slept == [pytest.approx(2.1, abs=0.1)]


def test_tries_end_and_the_last_error_is_raised(
    attempt: Callable[[str], object], wire: WireServer, new_status: NewStatus
) -> None:
    wire.refusals.extend(new_status("UNAVAILABLE", f"Try {number}.") for number in range(1, 9))
    with pytest.raises(Unavailable, match=r"^Try 3\.$"):
        attempt("GetModel")
    assert len(wire.calls) == 3


def test_a_wait_beyond_the_deadline_is_not_begun(
    attempt: Callable[[str], object], wire: WireServer, waits: Waits, new_status: NewStatus
) -> None:
    wire.refusals.append(new_status("RESOURCE_EXHAUSTED", "Full.", reason="QUEUE_FULL", retry_after_s=3600))
    with pytest.raises(ResourceExhausted) as raised:
        attempt("GetModel")
    assert raised.value.retry_after_s == 3600
    assert raised.value.reason == "QUEUE_FULL"
    assert waits.slept == []


def test_refusals_that_another_try_can_not_help_are_raised_at_once(
    attempt: Callable[[str], object], wire: WireServer, new_status: NewStatus
) -> None:
    wire.refusals.append(new_status("RESOURCE_EXHAUSTED", "Too large."))
    with pytest.raises(ResourceExhausted, match="Too large"):
        attempt("Embed")
    assert len(wire.calls) == 1


def test_waiting_for_a_server_takes_as_many_tries_as_it_needs(
    wire: WireServer, waits: Waits, new_status: NewStatus
) -> None:
    wire.refusals.extend(new_status("UNAVAILABLE", "Starting.") for _ in range(12))
    transport = GrpcTransport(
        wire.address, tls=None, options=ChannelOptions(), retry=RetryPolicy(), sleep=waits.sleep, clock=waits.clock
    )
    with Client(transport=transport) as client:
        client.wait_ready()
    assert len(wire.calls) == 13
    assert 12 * 0.05 <= sum(waits.slept) < 60


def test_a_wait_that_ends_within_a_try_says_that_the_server_does_not_serve(wire: WireServer) -> None:
    wire.held = "Check"
    with Client(wire.address) as client, pytest.raises(Unavailable, match=r"^The server is not serving after 0\.2 s"):
        client.wait_ready(timeout_s=0.2)

    async def story() -> None:
        async with AsyncClient(wire.address) as client:
            with pytest.raises(Unavailable, match=r"^The server is not serving after 0\.2 s") as raised:
                await client.wait_ready(timeout_s=0.2, request_id="mine")
            assert (raised.value.reason, raised.value.request_id) == ("NOT_SERVING", "mine")

    asyncio.run(story())


def test_each_call_has_a_deadline_that_suits_it_unless_told(wire: WireServer) -> None:
    def seen() -> float:
        remaining = wire.calls[-1].time_remaining_s
        assert remaining is not None
        return remaining

    with Client(wire.address) as client:
        client.list_models()
        assert seen() == pytest.approx(10, abs=2)
        client.embed([b"x"])
        assert seen() == pytest.approx(60, abs=2)
        client.embed([b"x"], timeout_s=5)
        assert seen() == pytest.approx(5, abs=2)
        list(client.embed_stream([b"x"]))
        stream = wire.calls[-1].time_remaining_s
        assert stream is None or stream > 1e6
    with Client(wire.address, timeout_s=20) as client:
        client.list_models()
        assert seen() == pytest.approx(20, abs=2)


def test_a_deadline_that_passed_is_its_own_error(wire: WireServer) -> None:
    wire.held = "ListModels"
    with Client(wire.address) as client, pytest.raises(DeadlineExceeded):
        client.list_models(timeout_s=0.05)
    assert wire.methods() == ["ListModels"]


def test_request_ids_and_stage_times_come_back(wire: WireServer) -> None:
    wire.trailing = (("x-request-id", "mine"), ("twinsight-queue-ms", "0.25"), ("twinsight-total-ms", "7"))
    with Client(wire.address) as client:
        results = client.embed([b"x"], request_id="mine")
        assert results.call.request_id == wire.calls[-1].request_id == "mine"
        assert (results.call.times.queue_ms, results.call.times.decode_ms) == (0.25, None)
        assert results.call.times.total_ms == 7
        client.embed([b"x"])
        client.embed([b"x"])
    made = [call.request_id for call in wire.calls[1:]]
    assert len(set(made)) == 2
    assert all(len(one) == 32 for one in made)


def test_errors_carry_the_request_id_reason_and_field(wire: WireServer) -> None:
    with Client(wire.address) as client, pytest.raises(NotFound) as raised:
        client.get_collection("gone", request_id="abc")
    assert (raised.value.request_id, raised.value.reason) == ("abc", "COLLECTION_NOT_FOUND")
    assert raised.value.__cause__ is None


def test_nobody_at_the_address_is_unavailable(dead_address: str) -> None:
    with Client(dead_address, retry=RetryPolicy(attempts=1)) as client, pytest.raises(Unavailable) as raised:
        client.list_models()
    assert raised.value.reason == ""


TOO_LARGE = r"^The message \(\d{4} bytes\) is larger than max_send_bytes \(1000 bytes\); send fewer things per call\.$"
SMALL = ChannelOptions(max_send_bytes=1000)


def test_messages_over_the_channels_limit_are_refused_before_sending(wire: WireServer) -> None:
    with (
        Client(wire.address, channel=SMALL) as client,
        pytest.raises(ResourceExhausted, match=TOO_LARGE) as raised,
    ):
        client.embed([b"x" * 2000])
    assert is_too_large(raised.value)

    async def story() -> None:
        async with AsyncClient(wire.address, channel=SMALL) as client:
            with pytest.raises(ResourceExhausted, match=TOO_LARGE):
                await client.embed([b"x" * 2000])

    asyncio.run(story())
    assert wire.calls == []
    with Client(wire.address, channel=ChannelOptions(max_send_bytes=-1)) as client:
        assert len(client.embed([b"x" * 2000])) == 1


@pytest.mark.parametrize("size", [2000, 998])  # 998 bytes fit, but not with what is around them
def test_a_picture_over_the_channels_limit_fails_alone_in_a_stream(wire: WireServer, size: int) -> None:
    pictures = [b"x", b"x" * size, b"x", b"x" * 900]
    with Client(wire.address, channel=SMALL) as client:
        answered = [one for batch in client.embed_stream(pictures) for one in batch]

    async def story() -> list[object]:
        async with AsyncClient(wire.address, channel=SMALL) as client:
            return [one async for batch in client.embed_stream(pictures) for one in batch]

    assert asyncio.run(story()) == answered
    errors = [one for one in answered if isinstance(one, ItemError)]  # the other pictures can't be decoded
    assert [one.code for one in errors] == ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", *["INVALID_ARGUMENT"] * 2]


def test_a_message_whose_size_was_underrated_ends_a_stream_after_the_answers_to_those_before(wire: WireServer) -> None:
    pictures = [b"x" * 600, *[b""] * 1000]  # each of these is nothing but what is around it
    answered: list[object] = []
    with Client(wire.address, channel=SMALL) as client, pytest.raises(ResourceExhausted, match=TOO_LARGE):
        answered.extend(client.embed_stream(pictures, batch_size=1000))

    async def story() -> None:
        async with AsyncClient(wire.address, channel=SMALL) as client:
            stream = client.embed_stream(pictures, batch_size=1000)
            answered.append(await anext(stream))
            with pytest.raises(ResourceExhausted, match=TOO_LARGE):
                await anext(stream)

    asyncio.run(story())
    assert len(answered) == 2


def test_what_the_pictures_iterator_raises_comes_after_the_answers_so_far(wire: WireServer) -> None:
    def pictures() -> Iterator[bytes]:
        yield b"x"
        raise RuntimeError("the disk is gone")

    answered: list[object] = []
    with Client(wire.address) as client, pytest.raises(RuntimeError, match="the disk is gone"):
        answered.extend(client.embed_stream(pictures(), batch_size=1))
    assert len(answered) == 1

    async def run() -> None:
        async with AsyncClient(wire.address) as client:
            stream = client.embed_stream(pictures(), batch_size=1)
            assert len(await anext(stream)) == 1
            with pytest.raises(RuntimeError, match="the disk is gone"):
                await anext(stream)

    asyncio.run(run())


def test_a_stream_that_is_left_early_is_cancelled_on_the_server(wire: WireServer) -> None:
    drawn: list[int] = []

    def pictures() -> Iterator[bytes]:
        for number in range(1_000_000):
            drawn.append(number)
            yield b"x"

    with Client(wire.address) as client:
        stream = client.embed_stream(pictures(), batch_size=1)
        next(stream)
        stream.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        # A call after it gets through: the stream holds nothing of the connection.
        assert client.list_models()
    assert len(drawn) < 1_000_000


def test_a_call_on_a_whole_stream_that_fails_raises_its_error(wire: WireServer) -> None:
    with Client(wire.address) as client, pytest.raises(TwinsightClientError, match="does not exist"):
        list(client.ingest("gone", [ITEM], ingest_id="bulk"))


@pytest.mark.parametrize("name", ["ListModels", "EmbedStream"])
def test_closing_a_client_ends_its_calls_as_cancelled(wire: WireServer, name: str) -> None:
    wire.held = name
    client = Client(wire.address)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(CALLS[name], client)
        assert wire.arrived.get(timeout=30) == name
        client.close()
        with pytest.raises(Cancelled, match=r"^The client is closed\.$") as ended:
            running.result(timeout=30)
        assert (ended.value.reason, bool(ended.value.request_id)) == ("CLIENT_CLOSED", True)
    with pytest.raises(Cancelled, match=r"^The client is closed\.$") as raised:
        CALLS[name](client)
    assert raised.value.reason == "CLIENT_CLOSED"
    client.close()

    async def story() -> None:
        client = AsyncClient(wire.address)
        running = asyncio.ensure_future(ASYNC_CALLS[name](client))
        assert await asyncio.to_thread(wire.arrived.get, timeout=30) == name
        await client.close()
        with pytest.raises(Cancelled, match=r"^The client is closed\.$"):
            await running
        with pytest.raises(Cancelled, match=r"^The client is closed\.$"):
            await ASYNC_CALLS[name](client)
        await client.close()

    asyncio.run(story())


@pytest.mark.parametrize("name", ["ListModels", "EmbedStream"])
def test_a_task_that_is_cancelled_ends_as_tasks_do_though_its_client_is_closed(wire: WireServer, name: str) -> None:
    wire.held = name

    async def story() -> None:
        client = AsyncClient(wire.address)
        running = asyncio.ensure_future(ASYNC_CALLS[name](client))
        assert await asyncio.to_thread(wire.arrived.get, timeout=30) == name
        running.cancel()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(story())


def test_a_token_that_is_no_token_is_told_by_an_open_client(wire: WireServer) -> None:
    with (
        Client(wire.address, token=lambda: "") as client,
        pytest.raises(ValueError, match="The token must be non-empty"),
    ):
        client.list_models()
