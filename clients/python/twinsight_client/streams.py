"""Bulk calls as flows: splits many things into messages, and reads one response per message, in order.

A message is full at a number of things or of bytes, whichever comes first, so that it stays under the server's limit
whatever the size of the pictures. A thing larger than that gets a message of its own, and one that no message of the
client's channel can hold is not sent: it fails alone.

The batch of a bulk write that can resume has as its number how many things of the list it and those before it hold. So
the last number on disk says how many things to skip, however they were split, and whatever became of their files.

A thing whose file is missing or not readable fails alone, too: an empty picture, which the server rejects, is sent in
its place. So does an item with a text that is not Unicode, as undecodable file names give. Other errors, which would
hit every file (a disk that fails, too many open files), are raised; so is one of a bulk write that can resume if the
folder is gone, or if no file of a batch of several can be read.

Requests are generated while responses are read: by another thread in the sync client, by another task in the asyncio
client, which consumes plain iterables in threads. The two sides share a deque of the messages in flight.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight.v1 import types_pb2
from twinsight_client import answers
from twinsight_client.answers import Sent
from twinsight_client.errors import InvalidArgument, ResourceExhausted, TwinsightClientError
from twinsight_client.images import ImageLike, image_message, is_of_file, size_bytes, unreadable
from twinsight_client.items import NewItem, item_message, item_size_bytes, items_digest
from twinsight_client.operations import COLLECTION_SERVICE, INFERENCE_SERVICE, check_many
from twinsight_client.own_thread import in_own_thread
from twinsight_client.results import CallInfo, Embedding, IngestResults, Item, ItemError, ModelResults, Results
from twinsight_client.unicode_text import NotUnicode, as_unicode, check_text

_log = logging.getLogger("twinsight.client")

BATCH_BYTES = 8 * 1024 * 1024
"""A message is full at this size: an eighth of what the client's channel carries, twice a camera's largest JPEGs."""
_AROUND_BYTES = 4096
"""More than a message takes beside the picture, vector and metadata of its only thing."""

_ID_CHARACTERS = 256  # longer ones are invalid
_LOOKED_UP = 64
"""Items, of those that were skipped as on disk, that are looked up."""

Unsent: TypeAlias = OSError | NotUnicode
"""Why a thing is not sent."""

T = TypeVar("T")
P = TypeVar("P")
R = TypeVar("R", bound=Message)
A = TypeVar("A")


class Flow(ABC, Generic[T, R, A]):
    """One bulk call: splits things into requests and parses the responses.

    Attributes:
        method: gRPC's path.
        response: class of the response messages.
        things: name of the caller's argument, for errors.

    Args:
        batch_size: most things in one message.
        most_bytes: largest message that the client's channel sends; negative: any.
    """

    method: str
    response: type[R]
    things: str

    def __init__(self, *, batch_size: int, most_bytes: int = -1) -> None:
        if batch_size < 1:
            raise InvalidArgument(f"`batch_size` (={batch_size}) must be at least 1.", reason="CLIENT_CHECK")
        self._batch_size = batch_size
        self._most_bytes = most_bytes
        self._batch_bytes = BATCH_BYTES if most_bytes < 0 else min(BATCH_BYTES, most_bytes // 2)  # sizes are estimates
        self._filling: list[T] = []
        self._filling_bytes = 0
        self._sent: deque[Sent] = deque()
        self._taken = 0

    def requests(self, things: Iterable[T]) -> Iterator[Message]:
        """Returns the messages of all `things`, each built when it is asked for.

        Raises:
            TypeError: at once, if `things` are one thing instead of many.
        """
        check_many(things, self.things)
        return self._requests(things)

    def requests_async(self, things: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[Message]:
        """Returns the messages of all `things`; plain iterables are consumed, and files read, in threads.

        Raises:
            TypeError: at once, if `things` are one thing instead of many.
        """
        check_many(things, self.things)
        return self._requests_async(things)

    def _requests(self, things: Iterable[T]) -> Iterator[Message]:
        for thing in things:
            yield from self._add(thing)
        yield from self._close()

    async def _requests_async(self, things: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[Message]:
        if isinstance(things, AsyncIterable):
            async for thing in things:
                for message in await asyncio.to_thread(self._add, thing):
                    yield message
            for message in await asyncio.to_thread(self._close):
                yield message
            return
        async for message in in_own_thread(self._requests(things)):
            yield message

    def parse(self, response: R, call: CallInfo) -> A:
        """Parses the response to the oldest message that has none yet."""
        return self._read(response, call, self._sent.popleft())

    @abstractmethod
    def _size_bytes(self, thing: T) -> int: ...

    @abstractmethod
    def _message(self, batch: Sequence[T], end: int, *, are_sent: bool = True) -> tuple[Message, Mapping[int, Unsent]]:
        """Returns the message of a batch, and why things of it are not sent, by their places in it.

        Args:
            batch: its things.
            end: how many things it and what came before it hold.
            are_sent: false: only stand-ins are, which the server rejects one by one.
        """

    @abstractmethod
    def _read(self, response: R, call: CallInfo, sent: Sent) -> A: ...

    def _is_written(self, thing: T) -> bool:  # noqa: ARG002  # embedding leaves nothing behind
        """Whether the next thing need not be sent."""
        return False

    def _add(self, thing: T) -> list[Message]:
        """Adds one thing; returns the messages that this completes."""
        if self._is_written(thing):
            self._taken += 1
            return []
        full: list[Message] = []
        try:
            size = self._size_bytes(thing)
        except OSError as error:
            if not is_of_file(error):
                raise
            size = 0  # it is reported when it is to be read
        if self._filling and self._filling_bytes + size > self._batch_bytes:
            full += self._close()
        self._filling.append(thing)
        self._filling_bytes += size
        if len(self._filling) == self._batch_size:
            full += self._close()
        return full

    def _close(self) -> list[Message]:
        """Returns the message of what was added since the last one; none if there is nothing to send."""
        batch, self._filling = self._filling, []
        size, self._filling_bytes = self._filling_bytes, 0
        if not batch:
            return []
        start, self._taken = self._taken, self._taken + len(batch)
        message, unsent = self._sendable(batch, start, size=size)
        self._sent.append(Sent(start, len(batch), unsent))
        return [message]

    def _sendable(self, batch: Sequence[T], start: int, *, size: int) -> tuple[Message, dict[int, ItemError]]:
        """Returns the message of a batch of about `size` bytes, and why things of it are not in it, by their numbers.

        A thing that is far larger than any message is not even read.
        """
        end = start + len(batch)
        if not self._exceeds(size // 2):  # sizes are estimates, at most twice as high as they should be
            message, failed = self._message(batch, end)
            # Measuring a message costs as much as serializing it.
            if len(batch) == 1 and self._exceeds(size + _AROUND_BYTES):
                size = message.ByteSize()
            if len(batch) > 1 or not self._exceeds(size):
                return message, {start + place: _unsent(start + place, error) for place, error in failed.items()}
        message, _ = self._message(batch, end, are_sent=False)
        said = f"{size} bytes are more than a message may have (max_send_bytes: {self._most_bytes})."
        error = partial(ItemError, code=ResourceExhausted.code, reason="CLIENT_CHECK", message=said)
        return message, {number: error(number) for number in range(start, end)}

    def _exceeds(self, size: int) -> bool:
        return 0 <= self._most_bytes < size


class EmbedFlow(Flow[ImageLike, inference_pb.EmbedStreamResponse, ModelResults[Embedding]]):
    """InferenceService.EmbedStream."""

    method = INFERENCE_SERVICE + "EmbedStream"
    response = inference_pb.EmbedStreamResponse
    things = "images"

    def __init__(self, *, model: str, batch_size: int, most_bytes: int = -1) -> None:
        super().__init__(batch_size=batch_size, most_bytes=most_bytes)
        self._model = check_text(model, field="model")

    def _size_bytes(self, thing: ImageLike) -> int:
        return size_bytes(thing)

    def _message(
        self,
        batch: Sequence[ImageLike],
        end: int,  # noqa: ARG002  # EmbedStream has no numbers
        *,
        are_sent: bool = True,
    ) -> tuple[Message, Mapping[int, Unsent]]:
        images, failed = _each_read(batch, image_message if are_sent else _no_picture, _no_picture)
        return inference_pb.EmbedStreamRequest(model=self._model, images=images), failed

    def _read(self, response: inference_pb.EmbedStreamResponse, call: CallInfo, sent: Sent) -> ModelResults[Embedding]:
        return answers.stream_embeddings(response, call, sent)


class IngestFlow(Flow[NewItem, collections_pb.IngestItemsResponse, IngestResults]):
    """CollectionService.IngestItems.

    Args:
        last_batch: highest batch already on disk: so many items are not sent.
    """

    method = COLLECTION_SERVICE + "IngestItems"
    response = collections_pb.IngestItemsResponse
    things = "items"

    def __init__(
        self,
        collection: str,
        *,
        ingest_id: str,
        vector_model_digest: str,
        batch_size: int,
        most_bytes: int = -1,
        last_batch: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, most_bytes=most_bytes)
        self._collection = check_text(collection, field="collection")
        self._ingest_id = check_text(ingest_id, field="ingest_id")
        self._vector_model_digest = vector_model_digest
        self._last_batch = last_batch
        self._last_skipped: deque[str] = deque(maxlen=_LOOKED_UP)

    def check_skipped(self, look_up: Callable[[str, list[str]], Results[Item]]) -> None:
        """Logs a warning if other items than those on disk seem to have been skipped.

        Args:
            look_up: returns items of a collection by their ids.
        """
        self._tell_all_skipped()
        if ids := self._doubted:
            with suppress(TwinsightClientError):  # the caller may have no right to read
                self._tell_missing(look_up(self._collection, ids))

    async def check_skipped_async(self, look_up: Callable[[str, list[str]], Awaitable[Results[Item]]]) -> None:
        """As `check_skipped`."""
        self._tell_all_skipped()
        if ids := self._doubted:
            with suppress(TwinsightClientError):
                self._tell_missing(await look_up(self._collection, ids))

    @property
    def _doubted(self) -> list[str]:
        """Ids of the last items that were skipped, if others were sent after them; that all were is told anyway."""
        return list(self._last_skipped) if self._taken > self._last_batch else []

    def _tell_all_skipped(self) -> None:
        """Logs a warning if every item was skipped: the `ingest_id` may be that of another list."""
        if 0 < self._taken <= self._last_batch:
            _log.warning(
                "Ingest `%s` wrote nothing to `%s`: the first %d items count as written under this id. Use another "
                "`ingest_id` for other items.",
                self._ingest_id,
                self._collection,
                self._last_batch,
            )

    def _tell_missing(self, found: Results[Item]) -> None:
        if missing := len(found.errors()):
            _log.warning(
                "Ingest `%s`: %d of the last %d items that were skipped as on disk are not in `%s`. Unless they were "
                "rejected or deleted, the list is not that of before: write all of it under another `ingest_id`.",
                self._ingest_id,
                missing,
                len(found),
                self._collection,
            )

    def _size_bytes(self, thing: NewItem) -> int:
        return item_size_bytes(thing)

    def _is_written(self, thing: NewItem) -> bool:
        if self._taken >= self._last_batch:
            return False
        self._last_skipped.append(thing.id)
        return True

    def _message(
        self, batch: Sequence[NewItem], end: int, *, are_sent: bool = True
    ) -> tuple[Message, Mapping[int, Unsent]]:
        items, failed = _each_read(batch, item_message if are_sent else _without_picture, _without_picture)
        if self._ingest_id and (gone := _of_folder(failed, len(batch))):
            raise gone  # they would count as written, and never be tried again
        message = collections_pb.IngestItemsRequest(
            collection=self._collection,
            items=items,
            vector_model_digest=items_digest(batch, given=self._vector_model_digest),
            ingest_id=self._ingest_id,
            batch=end,
            follows=self._last_batch,
        )
        return message, failed

    def _read(self, response: collections_pb.IngestItemsResponse, call: CallInfo, sent: Sent) -> IngestResults:
        return answers.ingested(response, call, sent)


class ResumeFlow(Flow[str, collections_pb.IngestItemsResponse, int]):
    """CollectionService.IngestItems with one message that writes nothing: it asks for the last batch on disk.

    Its only thing is the `ingest_id`.
    """

    method = COLLECTION_SERVICE + "IngestItems"
    response = collections_pb.IngestItemsResponse
    things = "ingest_ids"

    def __init__(self, collection: str) -> None:
        super().__init__(batch_size=1)
        self._collection = check_text(collection, field="collection")

    def _size_bytes(self, thing: str) -> int:
        return len(thing)

    def _message(
        self,
        batch: Sequence[str],
        end: int,  # noqa: ARG002  # no items, so no batch
        *,
        are_sent: bool = True,  # noqa: ARG002  # the server rejects an id that is too long
    ) -> tuple[Message, Mapping[int, Unsent]]:
        ingest_id = check_text(batch[0], field="ingest_id")
        return collections_pb.IngestItemsRequest(collection=self._collection, ingest_id=ingest_id), {}

    def _read(self, response: collections_pb.IngestItemsResponse, call: CallInfo, sent: Sent) -> int:
        answers.ingested(response, call, sent).values()
        return response.last_batch


def _each_read(
    things: Sequence[T], build: Callable[[T], P], stand_in: Callable[[T], P]
) -> tuple[list[P], dict[int, Unsent]]:
    """Returns what `build` makes of each thing, `stand_in` of those that can't be sent; and why, by place."""
    built: list[P] = []
    failed: dict[int, Unsent] = {}
    for place, thing in enumerate(things):
        try:
            built.append(build(thing))
        except (OSError, NotUnicode) as error:
            if isinstance(error, OSError) and not is_of_file(error):
                raise
            # Its traceback refers to this frame: the cycle would keep the batch until the next garbage collection.
            failed[place] = error.with_traceback(None)
            built.append(stand_in(thing))
    return built, failed


def _of_folder(failed: Mapping[int, Unsent], count: int) -> OSError | None:
    """Returns an error of a batch of `count` that seems to be of a whole folder, which may come back; None if none."""
    unread = [error for error in failed.values() if isinstance(error, OSError)]
    for error in unread:
        if error.errno in {errno.ENOENT, errno.ENOTDIR} and not Path(str(error.filename)).absolute().parent.is_dir():
            return error
    return unread[0] if len(unread) == count > 1 else None


def _unsent(index: int, error: Unsent) -> ItemError:
    if isinstance(error, OSError):
        return unreadable(index, error)
    return ItemError(index, error.code, error.reason, error.message, error.violations[0].field)


def _no_picture(_: ImageLike) -> types_pb2.Image:
    return types_pb2.Image()


def _without_picture(item: NewItem) -> collections_pb.NewItem:
    """Returns an item that fails alone in every collection, whether or not that has a model."""
    return collections_pb.NewItem(id=as_unicode(item.id[:_ID_CHARACTERS]), image=types_pb2.Image())
