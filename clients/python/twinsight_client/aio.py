"""The asyncio client: the methods of `twinsight_client.client.Client`, awaited.

Arguments, results and errors are the same, and documented there. Pictures are read and packed in a thread, so that a
large file does not block the event loop. A plain iterable passed to a stream is consumed in a thread of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Self, TypeVar

from google.protobuf.message import Message

from twinsight_client import operations
from twinsight_client.channel import DEFAULT_TARGET, ChannelOptions, Tls
from twinsight_client.deadlines import WRITE_S, stream_timeout, waiting
from twinsight_client.filters import Filter
from twinsight_client.images import Content, ImageLike
from twinsight_client.items import ItemId, NewItem
from twinsight_client.model_cards import ModelInfo
from twinsight_client.operations import Operation
from twinsight_client.request_ids import request_id_for
from twinsight_client.results import (
    CollectionInfo,
    Comparison,
    DeleteResults,
    Detection,
    Embedding,
    HealthStatus,
    IngestResults,
    Item,
    Label,
    Match,
    Metric,
    ModelResults,
    Results,
)
from twinsight_client.retry import RetryPolicy
from twinsight_client.streams import EmbedFlow, IngestFlow, ResumeFlow
from twinsight_client.token import Token
from twinsight_client.transport_aio import AsyncGrpcTransport, AsyncTransport

R = TypeVar("R", bound=Message)
A = TypeVar("A")


class AsyncClient:
    """Client of a twinsight server for asyncio; the arguments are those of `Client`.

        async with AsyncClient("127.0.0.1:50051") as client:
            (matches,) = (await client.search("photos", ["holiday.jpg"], top_k=5)).values()

    It belongs to the event loop of its first call. Cancelling a task cancels its call on the server.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        tls: Tls | None = None,
        token: Token | None = None,
        channel: ChannelOptions | None = None,
        retry: RetryPolicy | None = None,
        timeout_s: float | None = None,
        transport: AsyncTransport | None = None,
    ) -> None:
        self._transport: AsyncTransport = transport or AsyncGrpcTransport(
            target, tls=tls, token=token, options=channel or ChannelOptions(), retry=retry or RetryPolicy()
        )
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; safe to call again."""
        await self._transport.close()

    async def embed(
        self, images: Iterable[ImageLike], *, model: str = "", timeout_s: float | None = None, request_id: str = ""
    ) -> ModelResults[Embedding]:
        """Embeds pictures as vectors of length 1."""
        operation = await asyncio.to_thread(operations.embed, images, model=model)
        return await self._call(operation, timeout_s, request_id)

    def embed_stream(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        *,
        model: str = "",
        batch_size: int = 32,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> AsyncIterator[ModelResults[Embedding]]:
        """Embeds any number of pictures, batch by batch; nothing is sent until the result is iterated."""
        flow = EmbedFlow(model=model, batch_size=batch_size, most_bytes=self._transport.most_bytes)
        return self._transport.stream(
            flow,
            flow.requests_async(images),
            timeout_s=stream_timeout(timeout_s),
            request_id=request_id_for(request_id),
        )

    async def compare(
        self,
        pairs: Iterable[tuple[Content, Content]],
        *,
        model: str = "",
        vector_model_digest: str = "",
        target_fmr: float | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> ModelResults[Comparison]:
        """Compares the two sides of each pair."""
        operation = await asyncio.to_thread(
            operations.compare,
            pairs,
            model=model,
            vector_model_digest=vector_model_digest,
            target_fmr=target_fmr,
        )
        return await self._call(operation, timeout_s, request_id)

    async def classify(
        self,
        images: Iterable[ImageLike],
        *,
        model: str = "",
        top_k: int = 5,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> ModelResults[list[Label]]:
        """Returns a model's labels for each picture, most probable first."""
        operation = await asyncio.to_thread(operations.classify, images, model=model, top_k=top_k)
        return await self._call(operation, timeout_s, request_id)

    async def detect(
        self,
        images: Iterable[ImageLike],
        *,
        model: str = "",
        score_threshold: float | None = None,
        max_detections: int = 0,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> ModelResults[list[Detection]]:
        """Detects objects in each picture, highest score first."""
        operation = await asyncio.to_thread(
            operations.detect,
            images,
            model=model,
            score_threshold=score_threshold,
            max_detections=max_detections,
        )
        return await self._call(operation, timeout_s, request_id)

    async def create_collection(
        self,
        collection: str,
        *,
        model: str = "",
        dimension: int = 0,
        metric: Metric | str = Metric.COSINE,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> CollectionInfo:
        """Creates an empty collection, bound to a model or else to a dimension. Retried if rejected for load."""
        operation = operations.create_collection(collection, model=model, dimension=dimension, metric=metric)
        return await self._call(operation, timeout_s, request_id)

    async def get_collection(
        self, collection: str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> CollectionInfo:
        """Returns the description of one collection."""
        return await self._call(operations.get_collection(collection), timeout_s, request_id)

    async def list_collections(self, *, timeout_s: float | None = None, request_id: str = "") -> list[CollectionInfo]:
        """Returns the descriptions of all collections, ordered by id."""
        return await self._call(operations.list_collections(), timeout_s, request_id)

    async def delete_collection(self, collection: str, *, timeout_s: float | None = None, request_id: str = "") -> None:
        """Deletes a collection and everything in it. Retried if rejected for load."""
        await self._call(operations.delete_collection(collection), timeout_s, request_id)

    async def upsert(
        self,
        collection: str,
        items: Iterable[NewItem],
        *,
        vector_model_digest: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Results[str]:
        """Adds items, or replaces those whose id exists; returns the ids once they are on disk."""
        operation = await asyncio.to_thread(
            operations.upsert, collection, items, vector_model_digest=vector_model_digest
        )
        return await self._call(operation, timeout_s, request_id)

    async def ingest(
        self,
        collection: str,
        items: Iterable[NewItem] | AsyncIterable[NewItem],
        *,
        ingest_id: str = "",
        vector_model_digest: str = "",
        batch_size: int = 64,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> AsyncIterator[IngestResults]:
        """Writes any number of items, batch by batch. A generator: nothing is written until the result is iterated.

        It yields each batch once that is on disk, and resumes by `ingest_id` as `Client.ingest` does, also after a
        rejected batch.
        """
        request_id, within_s, last_batch = request_id_for(request_id), stream_timeout(timeout_s), 0
        if ingest_id:
            resume, resume_s = ResumeFlow(collection), within_s or WRITE_S
            asked = resume.requests_async([ingest_id])
            answers = self._transport.stream(resume, asked, timeout_s=resume_s, request_id=request_id)
            (last_batch,) = [answer async for answer in answers]
        flow = IngestFlow(
            collection,
            ingest_id=ingest_id,
            vector_model_digest=vector_model_digest,
            batch_size=batch_size,
            most_bytes=self._transport.most_bytes,
            last_batch=last_batch,
        )
        sent = flow.requests_async(items)
        async for results in self._transport.stream(flow, sent, timeout_s=within_s, request_id=request_id):
            yield results
        await flow.check_skipped_async(self.get_items)

    async def get_items(
        self,
        collection: str,
        ids: Iterable[str],
        *,
        include_vectors: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Results[Item]:
        """Returns items by id; a missing one is an error."""
        operation = operations.get_items(collection, ids, include_vectors=include_vectors)
        return await self._call(operation, timeout_s, request_id)

    async def list_items(
        self,
        collection: str,
        *,
        where: Filter | None = None,
        page_size: int = 100,
        include_vectors: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> AsyncIterator[Results[Item]]:
        """Yields items page by page, by id; see `Client.list_items`."""
        token = ""
        while True:
            operation = operations.list_items(
                collection, page_size=page_size, page_token=token, where=where, include_vectors=include_vectors
            )
            page, token = await self._call(operation, timeout_s, request_id)
            yield page
            if not token:
                return

    async def delete_items(
        self,
        collection: str,
        ids: Iterable[str] = (),
        *,
        where: Filter | None = None,
        purge: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> DeleteResults:
        """Deletes items by id or by filter; `purge` erases them from the disk. Retried if rejected for load."""
        call = operations.delete_items(collection, ids=ids, where=where, purge=purge)
        return await self._call(call, timeout_s, request_id)

    async def search(
        self,
        collection: str,
        queries: Iterable[Content | ItemId],
        *,
        top_k: int = 10,
        where: Filter | None = None,
        min_score: float | None = None,
        exact: bool = False,
        ef: int = 0,
        include_metadata: bool = True,
        include_vectors: bool = False,
        exclude_self: bool = False,
        vector_model_digest: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Results[list[Match]]:
        """Returns the items nearest to each query (a picture, a vector or a stored item), closest first."""
        operation = await asyncio.to_thread(
            operations.search,
            collection,
            queries,
            top_k=top_k,
            where=where,
            min_score=min_score,
            exact=exact,
            ef=ef,
            include_metadata=include_metadata,
            include_vectors=include_vectors,
            exclude_self=exclude_self,
            vector_model_digest=vector_model_digest,
        )
        return await self._call(operation, timeout_s, request_id)

    async def list_models(self, *, timeout_s: float | None = None, request_id: str = "") -> list[ModelInfo]:
        """Returns the cards of all models, ordered by name."""
        return await self._call(operations.list_models(), timeout_s, request_id)

    async def get_model(self, model: str = "", *, timeout_s: float | None = None, request_id: str = "") -> ModelInfo:
        """Returns the card of a model; empty: of the server's default."""
        return await self._call(operations.get_model(model), timeout_s, request_id)

    async def health(self, service: str = "", *, timeout_s: float | None = None, request_id: str = "") -> HealthStatus:
        """Returns the health of the server, or of one of its services. Never retried."""
        return await self._call(operations.health(service), timeout_s, request_id)

    async def wait_ready(self, *, timeout_s: float = 60.0, request_id: str = "") -> None:
        """Waits until the server is serving; raises Unavailable if it is not within `timeout_s`."""
        with waiting(timeout_s):
            await self._call(operations.wait_ready(), timeout_s, request_id)

    async def _call(self, operation: Operation[R, A], timeout_s: float | None, request_id: str) -> A:
        return await self._transport.call(
            operation,
            timeout_s=operation.deadline_s(timeout_s, self._timeout_s),
            request_id=request_id_for(request_id),
        )
