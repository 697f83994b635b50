"""Bulk writes to the fake: a refused batch holds back those after it, as on a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from twinsight_client import InvalidArgument, NewItem, NotFound, ResourceExhausted, Unavailable
from twinsight_client.testing import AsyncFakeClient, FakeClient

pytestmark = pytest.mark.client

ITEMS = [NewItem(f"i{n}", [1.0]) for n in range(5)]
FULL = ResourceExhausted("No room.", reason="DISK_FULL")


def stored(client: FakeClient) -> list[str]:
    return [item.id for page in client.list_items("c") for item in page.values()]


def test_batches_after_a_refused_one_are_refused_until_it_is_written() -> None:
    client = FakeClient()
    client.create_collection("c", dimension=1)
    batches = client.ingest("c", ITEMS, ingest_id="bulk", batch_size=1)
    assert next(batches).values() == ["i0"]
    client.server.fail_next(FULL)
    rest = list(batches)
    reasons = [[error.reason for error in batch.errors()] for batch in rest]
    assert reasons == [["DISK_FULL"], *[["BATCH_OUT_OF_ORDER"]] * 3]
    assert [batch.last_batch for batch in rest] == [1] * 4
    assert (
        rest[1].errors()[0].message == "`batch` (=3) comes after batch 2, which was rejected and must be written first."
    )
    assert stored(client) == ["i0"]
    again = list(client.ingest("c", ITEMS, ingest_id="bulk", batch_size=1))
    assert [batch.batch for batch in again] == [2, 3, 4, 5]
    assert stored(client) == [item.id for item in ITEMS]


def test_a_stream_does_not_go_on_into_a_collection_that_was_made_anew() -> None:
    client = FakeClient()
    client.create_collection("c", dimension=1)
    batches = client.ingest("c", ITEMS, ingest_id="bulk", batch_size=1)
    assert next(batches).values() == ["i0"]
    client.delete_collection("c")
    client.create_collection("c", dimension=1)
    rest = list(batches)
    assert {error.reason for batch in rest for error in batch.errors()} == {"COLLECTION_REPLACED"}
    assert [batch.last_batch for batch in rest] == [0] * 4
    assert len(list(client.ingest("c", ITEMS, ingest_id="bulk", batch_size=1))) == len(ITEMS)
    assert stored(client) == [item.id for item in ITEMS]


def test_nor_does_one_that_was_told_where_to_resume_before() -> None:
    client = FakeClient()

    def begun() -> Iterator[NewItem]:
        """The list, with the collection made anew while the client passes over what is written."""
        yield from ITEMS[:2]
        client.delete_collection("c")
        client.create_collection("c", dimension=1)
        yield from ITEMS[2:]

    client.create_collection("c", dimension=1)
    list(client.ingest("c", ITEMS[:2], ingest_id="bulk", batch_size=1))
    rest = list(client.ingest("c", begun(), ingest_id="bulk", batch_size=1))
    (first, *others) = [error for batch in rest for error in batch.errors()]
    assert first.message == (
        "`batch` (=3) follows batch 2, but the last batch on disk is 0: the collection may have been re-created. Ask "
        "again where to resume."
    )
    assert {error.reason for error in (first, *others)} == {"BATCH_OUT_OF_ORDER"}
    assert stored(client) == []
    assert len(list(client.ingest("c", ITEMS, ingest_id="bulk", batch_size=1))) == len(ITEMS)


def test_without_a_name_a_refused_batch_holds_nothing_back() -> None:
    client = FakeClient()
    client.create_collection("c", dimension=1)
    batches = client.ingest("c", ITEMS, batch_size=1)
    client.server.fail_next(FULL)
    assert [len(batch.errors()) for batch in batches] == [1, 0, 0, 0, 0]
    assert stored(client) == ["i1", "i2", "i3", "i4"]


def test_a_picture_for_a_collection_without_a_model_rejects_its_batch_of_a_bulk_write_as_a_whole(
    picture: Callable[[int], bytes],
) -> None:
    client = FakeClient()
    client.create_collection("c", dimension=1)
    items = [NewItem("v", [1.0]), NewItem("p", picture(0)), NewItem("w", [2.0])]
    batches = list(client.ingest("c", items, ingest_id="bulk", batch_size=2))
    reasons = [[error.reason for error in batch.errors()] for batch in batches]
    assert reasons == [["COLLECTION_UNBOUND"] * 2, ["BATCH_OUT_OF_ORDER"]]
    assert stored(client) == []
    (batch,) = client.ingest("c", items)
    assert [error.reason for error in batch.errors()] == ["COLLECTION_UNBOUND"]
    assert stored(client) == ["v", "w"]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (NewItem("a", [1.0], {7: "seven"}), "A name in metadata must be a str, not int: 7."),  # type: ignore[dict-item]
        (NewItem("a", [10**400]), "A vector must contain only numbers: int too large to convert to float."),
    ],
)
def test_what_no_message_can_hold_is_told_with_its_item(item: NewItem, said: str) -> None:
    client = FakeClient()
    client.create_collection("c", dimension=1)
    with pytest.raises(InvalidArgument) as raised:
        list(client.ingest("c", [item]))
    assert raised.value.message == f"Item `a`: {said}"


def test_a_server_that_goes_away_ends_the_stream() -> None:
    client = FakeClient()
    client.create_collection("c", dimension=1)
    batches = client.ingest("c", ITEMS, ingest_id="bulk", batch_size=1)
    next(batches)
    client.server.fail_next(Unavailable("Draining."))
    with pytest.raises(Unavailable):
        next(batches)


def test_a_missing_collection_is_told_before_anything_is_sent() -> None:
    with pytest.raises(NotFound):
        list(FakeClient().ingest("gone", ITEMS, ingest_id="bulk"))


def test_the_same_from_asyncio() -> None:
    client = AsyncFakeClient()

    async def run() -> list[int]:
        await client.create_collection("c", dimension=1)
        written: list[int] = []
        for failures in ([], [FULL], []):
            async for batch in client.ingest("c", ITEMS, ingest_id="bulk", batch_size=1):
                written.append(len(batch.successes()))
                client.server.fail_next(*failures)
                failures.clear()
                if not written[:-1]:
                    client.server.fail_next(FULL)
        return written

    assert asyncio.run(run()) == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1]


def test_a_name_that_is_another_lists_is_told(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient()
    client.create_collection("c", dimension=1)
    assert len(list(client.ingest("c", ITEMS, ingest_id="feed", batch_size=1))) == len(ITEMS)
    assert caplog.messages == []
    assert list(client.ingest("c", ITEMS, ingest_id="feed", batch_size=1)) == []
    assert caplog.messages == [
        f"Ingest `feed` wrote nothing to `c`: the first {len(ITEMS)} items count as written under this id. Use another "
        "`ingest_id` for other items."
    ]


@pytest.mark.parametrize(("first", "size"), [(4, 2), (5, 2), (4, 1)])
def test_a_list_that_has_grown_and_other_batches_skip_nothing_that_is_not_on_disk(
    caplog: pytest.LogCaptureFixture, first: int, size: int
) -> None:
    items = [NewItem(f"i{n}", [n + 1.0]) for n in range(12)]
    client = FakeClient()
    client.create_collection("c", dimension=1)
    list(client.ingest("c", items[:first], ingest_id="feed", batch_size=size))
    rest = list(client.ingest("c", items, ingest_id="feed", batch_size=3))
    assert [name for batch in rest for name in batch.values()] == [item.id for item in items[first:]]
    assert rest[-1].last_batch == len(items)
    assert len(stored(client)) == len(items)
    assert caplog.messages == []


def test_items_that_were_skipped_without_being_on_disk_are_told(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient()
    client.create_collection("c", dimension=1)
    list(client.ingest("c", ITEMS[:3], ingest_id="feed"))
    others = [NewItem("i2", [1.0]), *(NewItem(f"other{n}", [1.0]) for n in range(5))]
    assert [batch.values() for batch in client.ingest("c", others, ingest_id="feed")] == [
        ["other2", "other3", "other4"]
    ]
    assert [one.partition(" Unless ")[0] for one in caplog.messages] == [
        "Ingest `feed`: 2 of the last 3 items that were skipped as on disk are not in `c`."
    ]


def test_the_same_items_are_told_from_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    client = AsyncFakeClient()

    async def write(first: int, count: int) -> None:
        items = [NewItem(f"i{first + n}", [n + 1.0]) for n in range(count)]
        async for _ in client.ingest("c", items, ingest_id="feed", batch_size=2):
            pass

    async def run() -> None:
        await client.create_collection("c", dimension=1)
        await write(0, 5)
        await write(3, 9)

    asyncio.run(run())
    assert [one.partition(" Unless ")[0] for one in caplog.messages] == [
        "Ingest `feed`: 3 of the last 5 items that were skipped as on disk are not in `c`."
    ]


def test_an_item_that_can_not_be_sent_is_named() -> None:
    client = FakeClient()
    client.create_collection("c", dimension=1)
    with pytest.raises(InvalidArgument, match=r"Item `b`: Metadata `ok` must be .*, not NoneType") as caught:
        list(client.ingest("c", [*ITEMS, NewItem("b", [1.0], {"ok": None})]))  # type: ignore[dict-item]
    assert caught.value.field == "metadata['ok']"
    with pytest.raises(TypeError, match="An item's id must be a str, not int: 7"):
        client.upsert("c", [NewItem(7, [1.0])])  # type: ignore[arg-type]
