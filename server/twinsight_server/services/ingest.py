"""IngestItems: one stream of batches, of which none may be left behind.

What is kept on disk of a bulk write is its last batch alone, and a client that resumes sends what comes after it. So
that number must never pass a batch that was refused:

1. Of a batch that is refused as a whole, for whatever reason, the stream remembers the number.
2. Batches after the lowest such number are refused too, and remembered, until it is sent again and written.
3. A client that opens another stream resumes after the last batch on disk, which lies before all of them.
4. A collection that is deleted and made anew has none of the batches before: the stream does not go on into it, nor
   does another that was told by the one before where to resume (`follows`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from weakref import ref

from twinsight.v1 import collection_service_pb2 as pb
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import FailedPrecondition, InvalidInput, NotFound, PermissionDenied, TwinsightError
from twinsight_core.items import Checkpoint, check_checkpoint
from twinsight_server.calls.call import Call
from twinsight_server.services.inputs import check_count
from twinsight_server.services.items import ItemWriter
from twinsight_server.status import status_of


class IngestSession:
    """One IngestItems stream: the collection and the client's name for it hold from message to message.

    Attributes:
        collection: id of the one that the message taken up is for.
    """

    def __init__(self, writer: ItemWriter) -> None:
        self._writer = writer
        self.collection = ""
        self._ingest_id = ""
        self._refused: dict[str, _Refused] = {}
        # Weak: a stream must not keep what was deleted in memory.
        self._first: dict[str, ref[Collection]] = {}

    def begin(self, request: pb.IngestItemsRequest) -> None:
        """Takes up the next message: `write` or `refuse` follows, or both."""
        self.collection = request.collection or self.collection
        self._ingest_id = request.ingest_id or self._ingest_id

    def write(self, request: pb.IngestItemsRequest, call: Call) -> pb.IngestItemsResponse:
        """Writes one batch, unless it is on disk already.

        Raises:
            TwinsightError: the batch as a whole is refused; nothing of it was written.
        """
        collection = self._same_collection(call)
        last = collection.last_batch(self._ingest_id) if self._ingest_id else 0
        if not request.items:
            return pb.IngestItemsResponse(batch=request.batch, last_batch=last)
        check_count(len(request.items), self._writer.max_items, field="items")
        checkpoint = None
        if self._ingest_id:
            checkpoint = Checkpoint(self._ingest_id, request.batch)
            check_checkpoint(checkpoint)
            if request.batch <= last:
                self._written(request.batch)
                return pb.IngestItemsResponse(batch=request.batch, last_batch=last)
            self._check_order(request, last)
            last = request.batch
        results = self._writer.write(collection, request.items, request.vector_model_digest, checkpoint, call)
        self._written(request.batch)
        return pb.IngestItemsResponse(batch=request.batch, results=results, last_batch=last)

    def refuse(self, request: pb.IngestItemsRequest, error: TwinsightError, call: Call) -> pb.IngestItemsResponse:
        """Returns the answer to a message that failed as a whole, and remembers its batch."""
        denied = isinstance(error, PermissionDenied)
        if request.items and self._is_resumable(request.batch):
            # Of a collection that does not exist, or is not the caller's, none can tell which was meant.
            meant = "" if denied or isinstance(error, NotFound) else self.collection
            self._refused.setdefault(self._ingest_id, _Refused()).add(request.batch, meant)
        return pb.IngestItemsResponse(
            batch=request.batch,
            error=status_of(error, request_id=call.request_id),
            last_batch=0 if denied else self._last_batch(call),
        )

    def _same_collection(self, call: Call) -> Collection:
        """Returns the message's collection, unless it is another one than earlier messages of that id were for."""
        found = self._writer.collection(self.collection, call)
        if self._first.setdefault(self.collection, ref(found))() is not found:
            raise FailedPrecondition(
                f"Collection `{self.collection}` was deleted and made anew since this stream began with it: write to "
                "it with another stream, which resumes after its own last batch.",
                reason="COLLECTION_REPLACED",
                field="collection",
            )
        return found

    def _written(self, batch: int) -> None:
        if self._ingest_id in self._refused:
            self._refused[self._ingest_id].discard(batch, self.collection)

    def _check_order(self, request: pb.IngestItemsRequest, last: int) -> None:
        first = self._refused[self._ingest_id].first if self._ingest_id in self._refused else None
        if first is not None and request.batch > first:
            raise FailedPrecondition(
                f"`batch` (={request.batch}) comes after batch {first}, which was refused: that must be written first.",
                reason="BATCH_OUT_OF_ORDER",
                field="batch",
            )
        if request.follows > last:
            raise FailedPrecondition(
                f"`batch` (={request.batch}) follows batch {request.follows}, and {last} is the last on disk: the "
                "collection was made anew since, say. Ask again where to resume.",
                reason="BATCH_OUT_OF_ORDER",
                field="follows",
            )

    def _is_resumable(self, batch: int) -> bool:
        """Whether a batch has a place in a bulk write: a name that can be kept and a number that can be reached."""
        try:
            check_checkpoint(Checkpoint(self._ingest_id, batch))
        except InvalidInput:
            return False
        return True

    def _last_batch(self, call: Call) -> int:
        try:
            return self._writer.collection(self.collection, call).last_batch(self._ingest_id) if self._ingest_id else 0
        except TwinsightError:
            return 0


class _Refused:
    """Batches of one bulk write that were refused and not written since: number, and collection where it is known."""

    def __init__(self) -> None:
        self._batches: list[tuple[int, str]] = []

    @property
    def first(self) -> int | None:
        return self._batches[0][0] if self._batches else None

    def add(self, batch: int, collection: str) -> None:
        if not self._has(batch, collection):
            insort(self._batches, (batch, collection))

    def discard(self, batch: int, collection: str) -> None:
        for meant in ("", collection):
            if self._has(batch, meant):
                self._batches.remove((batch, meant))

    def _has(self, batch: int, collection: str) -> bool:
        place = bisect_left(self._batches, (batch, collection))
        return place < len(self._batches) and self._batches[place] == (batch, collection)
