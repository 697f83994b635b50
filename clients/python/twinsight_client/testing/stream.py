"""One stream of messages to a `MemoryServer`: errors of single messages, and the order of a bulk write's batches."""

from __future__ import annotations

from google.protobuf.message import Message

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight_client.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    TwinsightClientError,
    Unavailable,
)
from twinsight_client.testing import limits
from twinsight_client.testing.memory import MemoryServer
from twinsight_client.testing.statuses import status_of
from twinsight_client.testing.stored import MemoryCollection

_ENDING = (Unavailable, DeadlineExceeded, Cancelled)
"""Errors that end a stream; any other is the response to its message."""


class MemoryStream:
    """Answers the messages of one stream."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._refused: dict[str, set[int]] = {}
        self._first: dict[str, MemoryCollection] = {}

    def answer(self, request: Message) -> Message:
        """Returns the response to one message.

        Raises:
            TwinsightClientError: the stream ends.
        """
        if isinstance(request, inference_pb.EmbedStreamRequest):
            try:
                return self._server.answer(request)
            except _ENDING:
                raise
            except TwinsightClientError as error:
                return inference_pb.EmbedStreamResponse(error=status_of(error))
        if not isinstance(request, collections_pb.IngestItemsRequest):
            return self._server.answer(request)
        refused = self._refused.setdefault(request.ingest_id, set())
        try:
            self._check_same_collection(request.collection)
            if request.ingest_id and request.items:
                self._check_order(request, refused)
            answer = self._server.answer(request)
        except _ENDING:
            raise
        except TwinsightClientError as error:
            if request.items and _is_resumable(request.ingest_id):
                refused.add(request.batch)
            last = self._server.last_batch(request.collection, request.ingest_id)
            return collections_pb.IngestItemsResponse(batch=request.batch, error=status_of(error), last_batch=last)
        refused.discard(request.batch)
        return answer

    def _check_same_collection(self, name: str) -> None:
        found = self._server.find(name)
        if found is not None and self._first.setdefault(name, found) is not found:
            message = (
                f"Collection `{name}` was deleted and re-created since this stream first used it. Write to it with "
                "another stream, which resumes after its own last batch."
            )
            violations = [FieldViolation("collection", message)]
            raise FailedPrecondition(message, reason="COLLECTION_REPLACED", violations=violations)

    def _check_order(self, request: collections_pb.IngestItemsRequest, refused: set[int]) -> None:
        last = self._server.last_batch(request.collection, request.ingest_id)
        if request.batch <= last:
            return
        first = min(refused, default=request.batch)
        if request.batch > first:
            wanted = "must be written first" if first >= 1 else "needs a number from 1 on, in another stream"
            message = f"`batch` (={request.batch}) comes after batch {first}, which was rejected and {wanted}."
            violations = [FieldViolation("batch", message)]
            raise FailedPrecondition(message, reason="BATCH_OUT_OF_ORDER", violations=violations)
        if request.follows > last:
            message = (
                f"`batch` (={request.batch}) follows batch {request.follows}, but the last batch on disk is {last}: "
                "the collection may have been re-created. Ask again where to resume."
            )
            violations = [FieldViolation("follows", message)]
            raise FailedPrecondition(message, reason="BATCH_OUT_OF_ORDER", violations=violations)


def _is_resumable(ingest_id: str) -> bool:
    """Whether a bulk write can resume: it has a valid id."""
    try:
        limits.check_checkpoint(ingest_id, 1)
    except InvalidArgument:
        return False
    return True
