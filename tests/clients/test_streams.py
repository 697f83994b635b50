"""Bulk calls cut into messages."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight_client import CallInfo, InvalidArgument, ItemError, ItemId, NewItem, field
from twinsight_client.streams import BATCH_BYTES, EmbedFlow, IngestFlow
from twinsight_client.testing import AsyncFakeClient, FakeClient

pytestmark = pytest.mark.client


def ingest(batch_size: int, *, last_batch: int = 0, most_bytes: int = -1) -> IngestFlow:
    return IngestFlow(
        "c",
        ingest_id="i",
        vector_model_digest="d",
        batch_size=batch_size,
        most_bytes=most_bytes,
        last_batch=last_batch,
    )


def cut(flow: IngestFlow, items: list[NewItem]) -> list[tuple[int, list[str]]]:
    messages = list(flow.requests(items))
    assert all(isinstance(message, collections_pb.IngestItemsRequest) for message in messages)
    return [
        (message.batch, [item.id for item in message.items])
        for message in messages
        if isinstance(message, collections_pb.IngestItemsRequest)
    ]


def test_things_are_cut_by_number_and_batches_are_numbered_by_where_they_end() -> None:
    items = [NewItem(name, [1.0]) for name in "abcde"]
    assert cut(ingest(2), items) == [(2, ["a", "b"]), (4, ["c", "d"]), (5, ["e"])]


def test_things_are_cut_by_bytes_and_what_is_larger_travels_alone() -> None:
    half = b"x" * (BATCH_BYTES // 2 - 1)  # and 1 for the id
    items = [NewItem("a", half), NewItem("b", half), NewItem("c", b"y"), NewItem("d", b"z" * BATCH_BYTES)]
    assert cut(ingest(10), items) == [(2, ["a", "b"]), (3, ["c"]), (4, ["d"])]


def test_metadata_and_ids_count_as_what_they_take() -> None:
    half = {"text": "x" * (BATCH_BYTES // 2)}
    items = [NewItem("a", [1.0], half), NewItem("b", [1.0], half), NewItem("c" * BATCH_BYTES, [1.0])]
    assert [number for number, _ in cut(ingest(10), items)] == [1, 2, 3]


def test_things_that_are_on_disk_are_not_sent_and_indices_still_count_from_the_start() -> None:
    flow = ingest(2, last_batch=2)
    assert cut(flow, [NewItem(name, [1.0]) for name in "abcde"]) == [(4, ["c", "d"]), (5, ["e"])]
    refused = collections_pb.IngestItemsResponse(batch=4)
    refused.error.code = 3
    answers = flow.parse(refused, CallInfo())
    assert [error.index for error in answers.errors()] == [2, 3]
    assert answers.batch == 4


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 7))
def test_every_thing_is_sent_once_and_in_order_however_it_is_cut(things: list[int], batch_size: int) -> None:
    flow = EmbedFlow(model="m", batch_size=batch_size)
    messages = list(flow.requests(bytes([thing]) for thing in things))
    sent = []
    for message in messages:
        assert isinstance(message, inference_pb.EmbedStreamRequest)
        assert 1 <= len(message.images) <= batch_size
        sent += [image.encoded[0] for image in message.images]
    assert sent == things


def test_a_refused_message_is_the_error_of_each_of_its_pictures() -> None:
    flow = EmbedFlow(model="", batch_size=2)
    list(flow.requests([b"a", b"b", b"c"]))
    fine = inference_pb.EmbedStreamResponse()
    for _ in range(2):
        fine.results.add().embedding.vector = b"\0\0\x80\x3f"
    assert [len(one.vector) for one in flow.parse(fine, CallInfo()).values()] == [1, 1]
    refused = inference_pb.EmbedStreamResponse()
    refused.error.code, refused.error.message = 8, "Full."
    assert list(flow.parse(refused, CallInfo())) == [ItemError(2, "RESOURCE_EXHAUSTED", "", "Full.")]


def test_a_file_that_cannot_be_read_fails_alone_and_batches_stay_as_they_are(
    tmp_path: Path, picture: Callable[[int], bytes]
) -> None:
    whole, gone, folder = tmp_path / "whole.png", tmp_path / "gone.png", tmp_path / "folder.png"
    whole.write_bytes(picture(1))
    folder.mkdir()
    files = [whole, gone, folder, whole, gone]
    client = FakeClient()
    found = list(client.embed_stream(files, batch_size=2))
    assert [[isinstance(one, ItemError) for one in batch] for batch in found] == [[False, True], [True, False], [True]]
    errors = [error for batch in found for error in batch.errors()]
    assert [(error.index, error.code, error.reason) for error in errors] == [
        (index, "INVALID_ARGUMENT", "FILE_UNREADABLE") for index in (1, 2, 4)
    ]
    assert errors[0].message == f"`{gone}` can't be read: No such file or directory."
    client.create_collection("c", model="fake")
    items = [NewItem(str(place), file, {"place": place}) for place, file in enumerate(files)]
    written = list(client.ingest("c", items, ingest_id="i", batch_size=2))
    assert [batch.batch for batch in written] == [2, 4, 5]
    assert [error.index for batch in written for error in batch.errors()] == [1, 2, 4]
    assert [item.id for page in client.list_items("c") for item in page.values()] == ["0", "3"]
    # Like items that the server rejects, those that can't be read are not tried again under the same id.
    assert list(client.ingest("c", items, ingest_id="i", batch_size=2)) == []

    async def ingested() -> list[int]:
        async with AsyncFakeClient() as other:
            await other.create_collection("c", model="fake")
            return [error.index async for batch in other.ingest("c", items, batch_size=2) for error in batch.errors()]

    assert asyncio.run(ingested()) == [1, 2, 4]


@pytest.mark.parametrize(("at", "is_mounted"), [(2, False), (3, False), (2, True)])
def test_a_folder_that_is_gone_ends_a_write_that_can_resume(
    tmp_path: Path, picture: Callable[[int], bytes], at: int, is_mounted: bool
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.png").write_bytes(picture(1))
    items = [NewItem(name, folder / f"{name}.png") for name in "abcd"]
    client = FakeClient()
    client.create_collection("c", model="fake")

    def vanishing() -> Iterator[NewItem]:
        yield from items[:at]
        folder.rename(tmp_path / "away")
        if is_mounted:
            folder.mkdir()  # the empty folder where a disk was
        yield from items[at:]

    with pytest.raises(FileNotFoundError):
        list(client.ingest("c", vanishing(), ingest_id="i", batch_size=2))
    if is_mounted:
        folder.rmdir()
    (tmp_path / "away").rename(folder)
    rest = [one for batch in client.ingest("c", items, ingest_id="i", batch_size=2) for one in batch.values()]
    assert set(rest) >= set("abcd"[at - at % 2 :])
    assert [item.id for page in client.list_items("c") for item in page.values()] == list("abcd")


def test_the_error_of_a_file_is_its_own_in_a_refused_message_too(tmp_path: Path) -> None:
    flow = EmbedFlow(model="", batch_size=2)
    list(flow.requests([b"a", tmp_path / "gone.png"]))
    refused = inference_pb.EmbedStreamResponse()
    refused.error.code, refused.error.message = 8, "Full."
    assert [one.code for one in flow.parse(refused, CallInfo()).errors()] == ["RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"]


@pytest.mark.parametrize("of", ["stat", "read_bytes"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_an_error_that_is_not_of_one_file_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, of: str
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"a")

    def fail(path: Path) -> bytes:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, of, fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        list(EmbedFlow(model="", batch_size=1).requests([file]))


def test_what_could_not_be_read_is_freed_without_garbage_collection(tmp_path: Path) -> None:
    class Tracked(type(tmp_path)):  # type: ignore[misc]  # the class of this system's paths
        pass

    flow = EmbedFlow(model="", batch_size=2)
    thing = Tracked(tmp_path / "gone.png")
    left = weakref.ref(thing)
    gc.disable()
    try:
        assert len(list(flow.requests([thing]))) == 1
        del thing
        assert left() is None
    finally:
        gc.enable()


def test_a_file_that_vanished_moves_no_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, picture: Callable[[int], bytes]
) -> None:
    # Two of these would fill more than a message.
    files = [tmp_path / f"{name}.png" for name in "abcd"]
    for number, file in enumerate(files):
        file.write_bytes(picture(number) + bytes(BATCH_BYTES // 2 + 1))
    items = [NewItem(file.stem, file) for file in files]
    client = FakeClient()
    client.create_collection("c", model="fake")
    assert [batch.batch for batch in client.ingest("c", items[:2], ingest_id="i")] == [1, 2]
    files[0].unlink()
    files[2].write_bytes(picture(2))
    (rest,) = client.ingest("c", items, ingest_id="i")  # c is small now
    assert (rest.batch, rest.values()) == (4, ["c", "d"])
    assert not caplog.messages


def test_an_error_of_the_things_themselves_is_raised() -> None:
    def things() -> Iterator[bytes]:
        yield b"a"
        raise OSError("the list can't be read")

    with pytest.raises(OSError, match="the list"):
        list(EmbedFlow(model="", batch_size=2).requests(things()))


def test_asyncio_cuts_the_same_way() -> None:
    async def things() -> AsyncIterator[NewItem]:
        for name in "abc":
            yield NewItem(name, [1.0])

    async def both() -> tuple[list[bytes], list[bytes]]:
        given_async = [one.SerializeToString() async for one in ingest(2).requests_async(things())]
        given_list = [
            one.SerializeToString() async for one in ingest(2).requests_async([NewItem(name, [1.0]) for name in "abc"])
        ]
        return given_async, given_list

    expected = [one.SerializeToString() for one in ingest(2).requests([NewItem(name, [1.0]) for name in "abc"])]
    assert asyncio.run(both()) == (expected, expected)


def test_a_plain_iterable_that_takes_its_time_does_not_hold_up_the_event_loop() -> None:
    go_on = threading.Event()
    in_time: list[bool] = []

    def things() -> Iterator[NewItem]:
        for name in "abc":
            in_time.append(go_on.wait(timeout=10))
            go_on.clear()
            yield NewItem(name, [1.0])

    async def story() -> list[Message]:
        async def beside() -> None:
            while True:
                go_on.set()
                await asyncio.sleep(0.001)

        running = asyncio.create_task(beside())
        found = [one async for one in ingest(2).requests_async(things())]
        running.cancel()
        return found

    assert len(asyncio.run(story())) == 2
    assert in_time == [True] * 3


@pytest.mark.parametrize("lone", ["cat.jpg", b"GIF89a"])
def test_a_lone_path_or_file_is_refused_instead_of_being_taken_apart(lone: str | bytes) -> None:
    # As callers without a type checker do it.
    images, items = cast("list[bytes]", lone), cast("list[NewItem]", lone)
    said = r"^`{}` must be a list, even for a single value\.$"
    with pytest.raises(TypeError, match=said.format("images")):
        FakeClient().embed_stream(images)
    with pytest.raises(TypeError, match=said.format("images")):
        AsyncFakeClient().embed_stream(images)
    with pytest.raises(TypeError, match=r"^A picture must be .* not int\.$"):
        list(FakeClient().embed_stream(cast("list[bytes]", [b"a", 5])))
    with pytest.raises(TypeError, match=said.format("items")):
        list(FakeClient().ingest("c", items))
    with pytest.raises(TypeError, match=said.format("items")):
        FakeClient().upsert("c", items)

    async def ingested() -> None:
        async for _ in AsyncFakeClient().ingest("c", items):
            pass

    with pytest.raises(TypeError, match=said.format("items")):
        asyncio.run(ingested())


def test_an_empty_batch_size_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"`batch_size` \(=0\) must be at least 1\."):
        EmbedFlow(model="", batch_size=0)


def test_what_no_message_can_hold_fails_alone_unread(tmp_path: Path) -> None:
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file: reading it would end the test
    flow = EmbedFlow(model="", batch_size=4, most_bytes=10_000)
    sent = list(flow.requests([b"a", huge, b"b", b"c" * 10_000, b"d"]))
    assert [message.ByteSize() for message in sent] == [5, 2, 5, 2, 5]
    accepted = inference_pb.EmbedStreamResponse()
    accepted.results.add().embedding.vector = b"\0\0\x80\x3f"
    errors = [error for _ in sent for error in flow.parse(accepted, CallInfo()).errors()]
    assert [(error.index, error.code, error.reason) for error in errors] == [
        (index, "RESOURCE_EXHAUSTED", "CLIENT_CHECK") for index in (1, 3)
    ]
    said = "{} bytes are more than a message may have (max_send_bytes: 10000)."
    assert [error.message for error in errors] == [said.format(1 << 40), said.format(10_006)]


def test_a_vector_counts_as_what_it_takes_in_a_message() -> None:
    flow = ingest(4, most_bytes=1000)
    (message,) = flow.requests([NewItem("a", np.ones(200))])  # of 8 bytes each, sent as 4
    assert isinstance(message, collections_pb.IngestItemsRequest)
    assert len(message.items[0].vector) == 800


def test_what_stands_in_fails_alone_in_a_collection_without_a_model(tmp_path: Path) -> None:
    """There a picture that can't be embedded would stop a bulk write, through no fault of its own."""
    sent = list(ingest(4, most_bytes=1000).requests([NewItem("a", [1.0]), NewItem("b", tmp_path / "gone.png")]))
    sent += list(ingest(4, most_bytes=1000).requests([NewItem("c" * 2000, [1.0] * 1000)]))
    stand_ins = [message.items[-1] for message in sent if isinstance(message, collections_pb.IngestItemsRequest)]
    assert [one.WhichOneof("input") for one in stand_ins] == ["image", "image"]
    assert [one.image.WhichOneof("source") for one in stand_ins] == [None, None]


@pytest.mark.parametrize("item_id", [5, b"five"])
def test_an_id_that_is_no_text_is_told(item_id: object) -> None:
    item = NewItem(item_id, [1.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="An item's id must be a str, not"):
        list(ingest(4, most_bytes=1000).requests([item]))


def test_messages_are_full_before_the_channel_carries_no_more() -> None:
    flow = EmbedFlow(model="", batch_size=100, most_bytes=10_000)
    sizes = [message.ByteSize() for message in flow.requests([b"x" * 1000] * 100)]
    assert len(sizes) == 20
    assert max(sizes) < 10_000


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png"])
def test_a_name_that_no_file_can_have_fails_alone(tmp_path: Path, picture: Callable[[int], bytes], name: str) -> None:
    (found,) = FakeClient().embed_stream([picture(1), tmp_path / name, str(tmp_path / name)])
    assert [(error.index, error.reason) for error in found.errors()] == [
        (1, "FILE_UNREADABLE"),
        (2, "FILE_UNREADABLE"),
    ]
    shown = ascii(str(tmp_path / name))[1:-1]
    assert found.errors()[1].message == f"`{shown}` can't be read: no file can have this name."
    with pytest.raises(OSError, match="no file can have this name"):
        FakeClient().embed([str(tmp_path / name)])
    client = FakeClient()
    client.create_collection("c", model="fake")
    items = [NewItem("a", picture(1)), NewItem("b", tmp_path / name), NewItem("c", picture(2))]
    (written,) = client.ingest("c", items, ingest_id="i")
    assert [(error.index, error.reason) for error in written.errors()] == [(1, "FILE_UNREADABLE")]
    assert [item.id for page in client.list_items("c") for item in page.values()] == ["a", "c"]


def test_a_text_that_no_message_can_hold_fails_alone(picture: Callable[[int], bytes]) -> None:
    client = FakeClient()
    client.create_collection("c", model="fake")
    bad = [
        NewItem("caf\udce9", picture(1)),
        NewItem("b", picture(1), {"caf\udce9": 1}),
        NewItem("d", picture(1), {"name": "caf\udce9"}),
        NewItem("e", picture(1), {"names": ["x", "caf\udce9"]}),
    ]
    (written,) = client.ingest("c", [NewItem("a", picture(1)), *bad, NewItem("z", picture(2))], ingest_id="i")
    said = "`caf\\udce9` can't be sent: it is not valid UTF-8."
    assert [(one.index, one.code, one.reason) for one in written.errors()] == [
        (place, "INVALID_ARGUMENT", "CLIENT_CHECK") for place in range(1, 5)
    ]
    assert all(one.message.endswith(said) for one in written.errors())
    assert [item.id for page in client.list_items("c") for item in page.values()] == ["a", "z"]
    calls: list[Callable[[], object]] = [
        *(partial(client.upsert, "c", [item]) for item in bad),
        partial(client.get_items, "c", ["caf\udce9"]),
        partial(client.delete_items, "c", ["caf\udce9"]),
        partial(client.search, "c", [ItemId("caf\udce9")]),
        partial(client.get_collection, "caf\udce9"),
        partial(client.create_collection, "d", model="caf\udce9"),
        partial(client.embed, [picture(1)], model="caf\udce9"),
        partial(client.search, "c", [[1.0]], vector_model_digest="caf\udce9"),
        partial(client.health, "caf\udce9"),
        lambda: list(client.embed_stream([picture(1)], model="caf\udce9")),
        lambda: list(client.ingest("caf\udce9", [])),
        lambda: list(client.ingest("c", [], ingest_id="caf\udce9")),
        lambda: field("caf\udce9") == 1,
        lambda: field("name") == "caf\udce9",
    ]
    for call in calls:
        with pytest.raises(InvalidArgument, match="can't be sent: it is not valid UTF-8") as refused:
            call()
        assert refused.value.reason == "CLIENT_CHECK"
