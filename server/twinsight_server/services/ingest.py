"""IngestItems: a stream of batches, none of which may be lost.

The disk keeps only the number of a bulk write's last batch, and a client that resumes sends the batches after it. So
that number must never pass a batch that was rejected:

1. The stream remembers the number of each batch that is rejected as a whole, for whatever reason.
2. Batches after the lowest such number are rejected and remembered too, until that batch is sent again and written.
3. A client that opens another stream resumes after the last batch on disk, which precedes all of them.
4. A collection that was deleted and re-created has none of the earlier batches: the stream does not continue into it,
   nor does a later stream that resumes where this one stopped (`follows`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from weakref import ref

from twinsight.v1 import collection_service_pb2 as pb
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import FailedPrecondition, InvalidInput, NotFound, PermissionDenied, TwinsightError
from twinsight_core.items import Checkpoint, check_checkpoint
from twinsight_server.calls.call import Call
from twinsight_server.services.inputs import check_count, check_digest
from twinsight_server.services.items import ItemWriter
from twinsight_server.status import status_of


class IngestSession:
    """One IngestItems stream; collection and ingest id, once given, hold for the messages that follow.

    Attributes:
        collection: id of the current message's collection.
    """

    def __init__(self, writer: ItemWriter) -> None:
        self._writer = writer
        self.collection = ""
        self._ingest_id = ""
        self._refused: dict[str, _Refused] = {}
        # Weak: a stream must not keep a deleted collection in memory.
        self._first: dict[str, ref[Collection]] = {}

    def begin(self, request: pb.IngestItemsRequest) -> None:
        """Begins the next message: `write`, `refuse` or both must follow."""
        self.collection = request.collection or self.collection
        self._ingest_id = request.ingest_id or self._ingest_id

    def write(self, request: pb.IngestItemsRequest, call: Call) -> pb.IngestItemsResponse:
        """Writes one batch, unless it is on disk already.

        Raises:
            TwinsightError: the batch is rejected as a whole; nothing of it was written.
        """
        collection = self._same_collection(call)
        last = collection.last_batch(self._ingest_id) if self._ingest_id else 0
        if not request.items:
            digest = request.vector_model_digest
            check_digest(digest, collection.spec.model_digest, of=f"collection `{collection.spec.id}`")
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
        """Returns the response to a message that failed as a whole, and remembers its batch."""
        denied = isinstance(error, PermissionDenied)
        if request.items and self._is_resumable:
            # A number below 1 is before all others, and never written: the stream takes no more of this bulk write.
            # If the collection does not exist or is not the caller's, the one that was meant is unknown.
            meant = "" if denied or isinstance(error, NotFound) else self.collection
            self._refused.setdefault(self._ingest_id, _Refused()).add(request.batch, meant)
        return pb.IngestItemsResponse(
            batch=request.batch,
            error=status_of(error, request_id=call.request_id),
            last_batch=0 if denied else self._last_batch(call),
        )

    def _same_collection(self, call: Call) -> Collection:
        """Returns the message's collection; raises if it is not the one that earlier messages wrote to by this id."""
        found = self._writer.collection(self.collection, call)
        if self._first.setdefault(self.collection, ref(found))() is not found:
            raise FailedPrecondition(
                f"Collection `{self.collection}` was deleted and re-created since this stream first used it. Write to "
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
            wanted = "must be written first" if first >= 1 else "needs a number from 1 on, in another stream"
            raise FailedPrecondition(
                f"`batch` (={request.batch}) comes after batch {first}, which was rejected and {wanted}.",
                reason="BATCH_OUT_OF_ORDER",
                field="batch",
            )
        if request.follows > last:
            raise FailedPrecondition(
                f"`batch` (={request.batch}) follows batch {request.follows}, but the last batch on disk is {last}: "
                "the collection may have been re-created. Ask again where to resume.",
                reason="BATCH_OUT_OF_ORDER",
                field="follows",
            )

    @property
    def _is_resumable(self) -> bool:
        """Whether a bulk write can resume: it has a valid id. Nothing is written, or remembered, under any other."""
        try:
            check_checkpoint(Checkpoint(self._ingest_id, 1))
        except InvalidInput:
            return False
        return True

    def _last_batch(self, call: Call) -> int:
        try:
            return self._writer.collection(self.collection, call).last_batch(self._ingest_id) if self._ingest_id else 0
        except TwinsightError:
            return 0


class _Refused:
    """Batches of one bulk write that were rejected and not written since: their numbers, and collections if known."""

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
