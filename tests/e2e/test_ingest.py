from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import grpc
import numpy as np
import pytest

from e2e import errors
from e2e.conftest import Dynamic, Reflected, to_bytes
from twinsight_client import AsyncClient, Client
from twinsight_client import NewItem as NewPicture
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import Overloaded, StorageFull, TwinsightError
from twinsight_core.executors.base import Executor
from twinsight_core.items import Checkpoint, NewItem
from twinsight_server.app import Server
from twinsight_server.calls.call import Call


def test_a_stream_of_batches_resumes_where_it_stopped(api: Reflected, small: str) -> None:
    ingest = api.stream("CollectionService", "IngestItems")

    def batch(number: int, **more: object) -> object:
        items = [{"id": f"b{number}", "vector": to_bytes(np.full(3, number))}]
        return api.message("IngestItemsRequest", batch=number, items=items, **more)

    hello = api.message("IngestItemsRequest", collection=small, ingest_id="job")
    first = list(ingest(iter([hello, batch(1), batch(2)]), timeout=30))
    assert [(one.batch, one.last_batch) for one in first] == [(0, 0), (1, 1), (2, 2)]
    assert first[1].results[0].id == "b1"
    again = list(ingest(iter([hello, batch(2), batch(3)]), timeout=30))
    assert [(one.batch, one.last_batch, len(one.results)) for one in again] == [(0, 2, 0), (2, 2, 0), (3, 3, 1)]
    wrong = batch(4, collection="nowhere", ingest_id="job")
    bad = list(
        ingest(iter([hello, wrong, batch(5, collection=small), batch(6), batch(4), batch(6), batch(5)]), timeout=30)
    )
    assert [(one.batch, one.last_batch) for one in bad] == [(0, 3), (4, 0), (5, 3), (6, 3), (4, 4), (6, 4), (5, 5)]
    assert bad[1].error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert [errors.reason(bad[n].error) for n in (2, 3, 5)] == ["BATCH_OUT_OF_ORDER"] * 3
    assert bad[2].error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert bad[2].error.message == "`batch` (=5) comes after batch 4, which was rejected and must be written first."
    assert bad[5].error.message == "`batch` (=6) comes after batch 5, which was rejected and must be written first."
    assert [one.results[0].id for one in (bad[4], bad[6])] == ["b4", "b5"]
    found = api.call("CollectionService", "GetItems", collection=small, ids=["b4", "b5", "b6"]).results
    assert [one.WhichOneof("result") for one in found] == ["item", "item", "error"]


def test_after_a_batch_without_a_valid_number_the_stream_takes_no_more_of_the_bulk_write(
    api: Reflected, small: str
) -> None:
    ingest = api.stream("CollectionService", "IngestItems")
    sent = [batch_of(api, small, number) for number in (0, 1, 2)]
    answers = list(ingest(iter(sent), timeout=30))
    assert [errors.reason(one.error) for one in answers] == ["BATCH_INVALID", *["BATCH_OUT_OF_ORDER"] * 2]
    assert answers[1].error.message == (
        "`batch` (=1) comes after batch 0, which was rejected and needs a number from 1 on, in another stream."
    )
    assert ids_in(api, small) == []
    assert [one.last_batch for one in ingest(iter(sent[1:]), timeout=30)] == [1, 2]


def test_a_message_without_items_has_its_digest_checked(api: Reflected) -> None:
    name = "digests"
    api.call("CollectionService", "CreateCollection", collection={"id": name, "model": "base"})
    hello = api.message("IngestItemsRequest", collection=name, ingest_id="job", vector_model_digest="sha256:0")
    (answer,) = api.stream("CollectionService", "IngestItems")(iter([hello]), timeout=30)
    assert answer.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert errors.field(answer.error) == "vector_model_digest"
    api.call("CollectionService", "DeleteCollection", collection=name)


def test_a_stream_does_not_go_on_into_a_collection_that_was_made_anew(api: Reflected, small: str) -> None:
    sent: SimpleQueue[Dynamic] = SimpleQueue()
    ingest = api.stream("CollectionService", "IngestItems")
    answers = ingest(iter(sent.get, None), timeout=30)

    def answered(number: int) -> Dynamic:
        sent.put(batch_of(api, small, number))
        return next(answers)

    assert [answered(n).last_batch for n in (1, 2)] == [1, 2]
    made_anew(api, small)
    refused = [answered(n) for n in (3, 4, 1)]
    sent.put(None)
    assert [(one.batch, one.last_batch) for one in refused] == [(3, 0), (4, 0), (1, 0)]
    assert {errors.reason(one.error) for one in refused} == {"COLLECTION_REPLACED"}
    assert refused[0].error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert errors.field(refused[0].error) == "collection"
    assert refused[0].error.message == (
        "Collection `small` was deleted and re-created since this stream first used it. Write to it with another "
        "stream, which resumes after its own last batch."
    )
    again = ingest(iter([batch_of(api, small, n) for n in range(1, 5)]), timeout=30)
    assert [one.last_batch for one in again] == [1, 2, 3, 4]
    assert ids_in(api, small) == ["b1", "b2", "b3", "b4"]


def test_where_to_resume_is_told_of_the_collection_that_is_written_to(api: Reflected, small: str) -> None:
    sent: SimpleQueue[Dynamic] = SimpleQueue()
    ingest = api.stream("CollectionService", "IngestItems")
    list(ingest(iter([batch_of(api, small, 1)]), timeout=30))
    answers = ingest(iter(sent.get, None), timeout=30)
    sent.put(api.message("IngestItemsRequest", collection=small, ingest_id="job"))
    assert next(answers).last_batch == 1
    made_anew(api, small)
    sent.put(batch_of(api, small, 2))
    assert errors.reason(next(answers).error) == "COLLECTION_REPLACED"
    sent.put(None)
    assert ids_in(api, small) == []


def test_what_was_told_by_another_stream_must_be_on_disk(api: Reflected, small: str) -> None:
    ingest = api.stream("CollectionService", "IngestItems")

    def sent(*numbers: int, follows: int) -> list[Dynamic]:
        batches = [batch_of(api, small, number) for number in numbers]
        for one in batches:
            one.follows = follows
        return list(ingest(iter(batches), timeout=30))

    assert [one.last_batch for one in sent(1, 2, follows=0)] == [1, 2]
    assert [one.last_batch for one in sent(2, 3, 4, follows=2)] == [2, 3, 4]
    made_anew(api, small)
    refused = sent(5, 6, follows=4)
    assert {errors.reason(one.error) for one in refused} == {"BATCH_OUT_OF_ORDER"}
    assert (errors.field(refused[0].error), refused[0].last_batch) == ("follows", 0)
    assert refused[0].error.message == (
        "`batch` (=5) follows batch 4, but the last batch on disk is 0: the collection may have been re-created. Ask "
        "again where to resume."
    )
    assert ids_in(api, small) == []


def test_a_batch_is_written_to_the_collection_whose_last_batch_was_asked_for(
    api: Reflected, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, replaced = Collection.last_batch, iter([True])

    def asking(self: Collection, ingest_id: str) -> int:
        last = ask(self, ingest_id)
        if next(replaced, False):
            made_anew(api, small)
        return last

    monkeypatch.setattr(Collection, "last_batch", asking)
    (refused,) = api.stream("CollectionService", "IngestItems")(iter([batch_of(api, small, 3)]), timeout=30)
    assert (errors.reason(refused.error), refused.last_batch) == ("COLLECTION_CLOSED", 0)
    assert ids_in(api, small) == []


def batch_of(api: Reflected, collection: str, number: int) -> Dynamic:
    items = [{"id": f"b{number}", "vector": to_bytes(np.ones(3))}]
    return api.message("IngestItemsRequest", collection=collection, ingest_id="job", batch=number, items=items)


def made_anew(api: Reflected, collection: str) -> None:
    api.call("CollectionService", "DeleteCollection", collection=collection)
    api.call("CollectionService", "CreateCollection", collection={"id": collection, "dimension": 3, "metric": 2})


def ids_in(api: Reflected, collection: str) -> list[str]:
    return [one.item.id for one in api.call("CollectionService", "ListItems", collection=collection).results]


@pytest.mark.parametrize("seed", range(4))
def test_however_batches_are_refused_resuming_writes_every_item(
    api: Reflected, server: Server, small: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    write, message = Collection.upsert, server.gate.message

    def failing(
        self: Collection,
        items: Sequence[NewItem],
        *,
        checkpoint: Checkpoint | None,
        check_wanted: Callable[[], None],
    ) -> list[bool]:
        if rng.random() < 0.2:
            raise rng.choice([StorageFull("No.", reason="DISK_FULL"), TwinsightError("No.", reason="COMPUTE_FAILED")])
        return write(self, items, checkpoint=checkpoint, check_wanted=check_wanted)

    @contextmanager
    def refusing(stream: Call, method: str, *, collection: str, items: int) -> Iterator[Call]:
        if rng.random() < 0.1:
            raise Overloaded("No.", retry_after_s=0.1)
        with message(stream, method, collection=collection, items=items) as call:
            yield call

    monkeypatch.setattr(Collection, "upsert", failing)
    monkeypatch.setattr(server.gate, "message", refusing)
    ingest, batches, last, tries = api.stream("CollectionService", "IngestItems"), 30, 0, 0
    named: dict[str, object] = {"collection": small, "ingest_id": f"job-{seed}"}
    while last < batches:
        tries += 1
        assert tries < 300
        numbers = list(range(last + 1, batches + 1))
        if rng.random() < 0.5:  # as a client that sends what was refused once more on the same stream
            numbers += numbers[: rng.randrange(len(numbers) + 1)]
        sent = [api.message("IngestItemsRequest", **named)] + [
            api.message("IngestItemsRequest", batch=n, items=[{"id": f"b{n}", "vector": to_bytes(np.ones(3))}], **named)
            for n in numbers
        ]
        hello, *answers = ingest(iter(sent), timeout=60)
        last = max(last, hello.last_batch)
        for answer in answers:
            if not answer.HasField("error"):
                assert answer.last_batch in {last, last + 1}
                last = answer.last_batch
    assert tries > 1
    found = api.call("CollectionService", "GetItems", collection=small, ids=[f"b{n}" for n in range(1, batches + 1)])
    assert all(one.WhichOneof("result") == "item" for one in found.results)


def test_a_resumable_batch_that_the_model_failed_on_is_not_counted_as_written(
    own: Server, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(images: np.ndarray, _: Executor) -> np.ndarray:
        raise RuntimeError(f"device lost with {len(images)} pictures")

    api = Reflected(own.address)
    api.call("CollectionService", "CreateCollection", collection={"id": "photos", "model": "base"})
    items = [{"id": "a", "image": {"encoded": photos["coffee"]}}]
    batch = api.message("IngestItemsRequest", collection="photos", ingest_id="job", batch=1, items=items)
    ingest = api.stream("CollectionService", "IngestItems")
    with monkeypatch.context() as patch:
        patch.setattr(own.models.get("").engine, "_computed", broken)
        (failed,) = ingest(iter([batch]), timeout=30)
    (again,) = ingest(iter([batch]), timeout=30)
    api.close()
    assert failed.error.code == grpc.StatusCode.INTERNAL.value[0]
    assert (again.results[0].id, again.last_batch) == ("a", 1)


def test_a_file_that_the_client_can_not_read_fails_alone_and_the_rest_is_written(
    own: Server, photos: dict[str, bytes], tmp_path: Path
) -> None:
    file = tmp_path / "coffee.jpg"
    file.write_bytes(photos["coffee"])
    items = [NewPicture(name, tmp_path / f"{name}.jpg") for name in ("gone", "coffee", "lost")]
    with Client(own.address) as client:
        client.create_collection("files", model="base")
        written = list(client.ingest("files", items, ingest_id="job", batch_size=2))
        assert [(batch.batch, batch.last_batch) for batch in written] == [(2, 2), (3, 3)]
        failed = [error for batch in written for error in batch.errors()]
        assert [(error.index, error.reason) for error in failed] == [(0, "FILE_UNREADABLE"), (2, "FILE_UNREADABLE")]
        assert client.get_items("files", ["coffee"]).values()[0].id == "coffee"
        (embedded,) = client.embed_stream([file, tmp_path / "gone.jpg"])
        assert [error.index for error in embedded.errors()] == [1]

    async def again() -> list[str]:
        async with AsyncClient(own.address) as other:
            return [one for batch in [b async for b in other.ingest("files", items)] for one in batch.successes()]

    assert asyncio.run(again()) == ["coffee"]
