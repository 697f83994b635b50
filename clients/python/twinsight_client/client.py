"""The client: one method for each call of the API.

How the client performs a search by picture:

1. `operations.search` builds one message for `Client.search`, reading pictures from disk.
2. The transport sends it with a deadline and a request id, and retries it where that is safe (`retry`).
3. `answers` turns the response into `Results`, and the trailing metadata into the time each stage took.
4. A failed call raises an error of `errors` with the server's reason and the field's path (`status`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from twinsight_client.transport import GrpcTransport, Transport

R = TypeVar("R", bound=Message)
A = TypeVar("A")


class Client:
    """Client of a twinsight server. Threads may share it, forked processes not; `close` it, or use it in a `with`.

        with Client("127.0.0.1:50051") as client:
            (matches,) = client.search("photos", ["holiday.jpg"], top_k=5).values()
            client.create_collection("pets", model="base")
            client.upsert("pets", [NewItem("cat", "cat.jpg", {"year": 2024})]).values()

    A picture is the bytes or the path of a JPEG, PNG or WebP file, pixels as [height, width, 3] uint8, a Pillow image,
    or an `ImageInput` with a region. A vector, where a method accepts one, is a sequence of numbers, a one-dimensional
    array or an `Embedding`. An `Embedding` knows its model: the client sends that digest if `vector_model_digest` is
    empty, and rejects embeddings of any other model, or of two models in one message.

    Every method takes `timeout_s`, the seconds for the call including retries (None: the client's, else a default for
    the kind of call; streams have no deadline), and `request_id`, under which the server logs the call: 1 to 128 ASCII
    letters, digits and any of `._:/+=-` (empty: a new one). A call that fails as a whole raises a
    `TwinsightClientError`, `InvalidArgument` before sending if the client can tell. An unreadable file raises OSError.

    Args:
        target: HOST:PORT of the server.
        tls: None: plain text.
        token: an API key or JWT, or a function called for one at every call; needs TLS or this machine
            (`ChannelOptions`).
        channel: limits and timings of the connection.
        retry: how often to try reads and upserts, and any unary call that the server rejects for load.
        timeout_s: deadline in seconds of every call that does not set its own.
        transport: sends the calls instead of gRPC; `twinsight_client.testing` has one in memory.
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
        transport: Transport | None = None,
    ) -> None:
        self._transport: Transport = transport or GrpcTransport(
            target, tls=tls, token=token, options=channel or ChannelOptions(), retry=retry or RetryPolicy()
        )
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; safe to call again."""
        self._transport.close()

    def embed(
        self, images: Iterable[ImageLike], *, model: str = "", timeout_s: float | None = None, request_id: str = ""
    ) -> ModelResults[Embedding]:
        """Embeds pictures as vectors of length 1.

        Args:
            images: at most 256 unless the server is configured otherwise; `embed_stream` takes any number.
            model: empty: the server's default. To write to or search a collection, pass it the pictures themselves.
            timeout_s: see the class.
            request_id: see the class.
        """
        return self._call(operations.embed(images, model=model), timeout_s, request_id)

    def embed_stream(
        self,
        images: Iterable[ImageLike],
        *,
        model: str = "",
        batch_size: int = 32,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Iterator[ModelResults[Embedding]]:
        """Embeds any number of pictures, batch by batch; nothing is sent until the result is iterated.

        Args:
            images: consumed by another thread while the caller iterates; one that can't be read or sent fails alone.
            model: empty: the server's default.
            batch_size: most pictures in one message; large pictures make smaller batches.
            timeout_s: for the whole stream; None: no deadline.
            request_id: see the class.

        Yields:
            The results of one batch; `ItemError.index` counts over the whole stream.
        """
        flow = EmbedFlow(model=model, batch_size=batch_size, most_bytes=self._transport.most_bytes)
        return self._transport.stream(
            flow, flow.requests(images), timeout_s=stream_timeout(timeout_s), request_id=request_id_for(request_id)
        )

    def compare(
        self,
        pairs: Iterable[tuple[Content, Content]],
        *,
        model: str = "",
        vector_model_digest: str = "",
        target_fmr: float | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> ModelResults[Comparison]:
        """Compares the two sides of each pair.

        Args:
            pairs: two pictures or vectors each; at most 128 unless the server is configured otherwise.
            model: empty: the server's default.
            vector_model_digest: digest of the model that made the vectors in `pairs`; must be the comparing model's.
            target_fmr: target false match rate, above 0 and at most 1: `same` is decided at the model's operating
                point for it, to six digits, or the next stricter one; None: at the model's default point.
            timeout_s: see the class.
            request_id: see the class.
        """
        call = operations.compare(pairs, model=model, vector_model_digest=vector_model_digest, target_fmr=target_fmr)
        return self._call(call, timeout_s, request_id)

    def classify(
        self,
        images: Iterable[ImageLike],
        *,
        model: str = "",
        top_k: int = 5,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> ModelResults[list[Label]]:
        """Returns a model's labels for each picture, most probable first.

        Args:
            images: at most 256 unless the server is configured otherwise.
            model: a classification model; empty: the server's default, or else its only one.
            top_k: most labels per picture; all of them if the model has fewer.
            timeout_s: see the class.
            request_id: see the class.
        """
        return self._call(operations.classify(images, model=model, top_k=top_k), timeout_s, request_id)

    def detect(
        self,
        images: Iterable[ImageLike],
        *,
        model: str = "",
        score_threshold: float | None = None,
        max_detections: int = 0,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> ModelResults[list[Detection]]:
        """Detects objects in each picture, highest score first.

        Args:
            images: at most 256 unless the server is configured otherwise.
            model: a detection model; empty: the server's default, or else its only one.
            score_threshold: only detections with at least this score, 0..1; None: the server's 0.5.
            max_detections: most per picture; 0: as many as the model gives.
            timeout_s: see the class.
            request_id: see the class.
        """
        operation = operations.detect(
            images, model=model, score_threshold=score_threshold, max_detections=max_detections
        )
        return self._call(operation, timeout_s, request_id)

    def create_collection(
        self,
        collection: str,
        *,
        model: str = "",
        dimension: int = 0,
        metric: Metric | str = Metric.COSINE,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> CollectionInfo:
        """Creates an empty collection, bound to a model or else to a dimension. Retried if rejected for load.

        Args:
            collection: its id: 1 to 64 letters, digits, '.', '_' or '-', not starting with '.'.
            model: name of the model that embeds its pictures; empty: it takes only vectors.
            dimension: components of its vectors, 1 to 4096, if no model is named.
            metric: cosine, euclidean or dot.
            timeout_s: see the class.
            request_id: see the class.
        """
        operation = operations.create_collection(collection, model=model, dimension=dimension, metric=metric)
        return self._call(operation, timeout_s, request_id)

    def get_collection(
        self, collection: str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> CollectionInfo:
        """Returns the description of one collection."""
        return self._call(operations.get_collection(collection), timeout_s, request_id)

    def list_collections(self, *, timeout_s: float | None = None, request_id: str = "") -> list[CollectionInfo]:
        """Returns the descriptions of all collections, ordered by id."""
        return self._call(operations.list_collections(), timeout_s, request_id)

    def delete_collection(self, collection: str, *, timeout_s: float | None = None, request_id: str = "") -> None:
        """Deletes a collection and everything in it. Retried if rejected for load."""
        self._call(operations.delete_collection(collection), timeout_s, request_id)

    def upsert(
        self,
        collection: str,
        items: Iterable[NewItem],
        *,
        vector_model_digest: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Results[str]:
        """Adds items, or replaces those whose id exists; returns the ids once they are on disk.

        Args:
            collection: its id.
            items: at most 1000 unless the server is configured otherwise; of two with the same id the later wins.
            vector_model_digest: digest of the model that made the vectors; must be the collection's.
            timeout_s: see the class.
            request_id: see the class.
        """
        operation = operations.upsert(collection, items, vector_model_digest=vector_model_digest)
        return self._call(operation, timeout_s, request_id)

    def ingest(
        self,
        collection: str,
        items: Iterable[NewItem],
        *,
        ingest_id: str = "",
        vector_model_digest: str = "",
        batch_size: int = 64,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Iterator[IngestResults]:
        """Writes any number of items, batch by batch. A generator: nothing is written until the result is iterated.

        It yields each batch once that is on disk. With an `ingest_id`, an interrupted write resumes: call `ingest`
        again with the same items in the same order, and perhaps more at the end. As many as are on disk under that id
        are skipped and yield nothing, with a warning if the last ones skipped are not in the collection (they are only
        counted). A batch rejected as a whole blocks those after it (BATCH_OUT_OF_ORDER) until all are sent again, as
        does a re-created collection (COLLECTION_REPLACED).

        Args:
            collection: its id.
            items: consumed by another thread while the caller iterates. One whose file can't be read (FILE_UNREADABLE)
                or sent fails alone, for good under its `ingest_id`; if its folder is gone, OSError is raised.
            ingest_id: the caller's name for this list of items, 1 to 128 bytes; empty: the write can't resume.
            vector_model_digest: digest of the model that made the vectors; must be the collection's.
            batch_size: most items in one message; large pictures make smaller batches.
            timeout_s: for the whole stream; None: no deadline.
            request_id: see the class.

        Yields:
            The results of one batch; `ItemError.index` counts over the whole stream.
        """
        request_id, within_s, last_batch = request_id_for(request_id), stream_timeout(timeout_s), 0
        if ingest_id:
            resume, resume_s = ResumeFlow(collection), within_s or WRITE_S
            asked = resume.requests([ingest_id])
            (last_batch,) = self._transport.stream(resume, asked, timeout_s=resume_s, request_id=request_id)
        flow = IngestFlow(
            collection,
            ingest_id=ingest_id,
            vector_model_digest=vector_model_digest,
            batch_size=batch_size,
            most_bytes=self._transport.most_bytes,
            last_batch=last_batch,
        )
        yield from self._transport.stream(flow, flow.requests(items), timeout_s=within_s, request_id=request_id)
        flow.check_skipped(self.get_items)

    def get_items(
        self,
        collection: str,
        ids: Iterable[str],
        *,
        include_vectors: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Results[Item]:
        """Returns items by id, at most 1000 unless the server is configured otherwise; a missing one is an error."""
        operation = operations.get_items(collection, ids, include_vectors=include_vectors)
        return self._call(operation, timeout_s, request_id)

    def list_items(
        self,
        collection: str,
        *,
        where: Filter | None = None,
        page_size: int = 100,
        include_vectors: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Iterator[Results[Item]]:
        """Yields items page by page, by id. One present throughout appears once, even if it is rewritten meanwhile.

        Args:
            collection: its id.
            where: only items that match this filter.
            page_size: most items on a page, at most 1000.
            include_vectors: return the vectors too.
            timeout_s: for each page.
            request_id: used by the call for every page.
        """
        token = ""
        while True:
            operation = operations.list_items(
                collection, page_size=page_size, page_token=token, where=where, include_vectors=include_vectors
            )
            page, token = self._call(operation, timeout_s, request_id)
            yield page
            if not token:
                return

    def delete_items(
        self,
        collection: str,
        ids: Iterable[str] = (),
        *,
        where: Filter | None = None,
        purge: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> DeleteResults:
        """Deletes items by id (max. 1000 by default) or filter; `purge` erases them. Retried if rejected for load."""
        return self._call(operations.delete_items(collection, ids=ids, where=where, purge=purge), timeout_s, request_id)

    def search(
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
        """Returns the items nearest to each query (a picture, a vector or a stored item), closest first.

        Args:
            collection: its id.
            queries: pictures, vectors or `ItemId`s; at most 256 unless the server is configured otherwise.
            top_k: most matches per query, 1 to 1000 unless the server is configured otherwise.
            where: only items that match this filter.
            min_score: only matches with at least this score.
            exact: compare with every item instead of searching the graph: exact results, slower.
            ef: width of the graph search, `top_k` to 4096; 0: the server's default.
            include_metadata: return the matches' metadata.
            include_vectors: return the matches' vectors.
            exclude_self: leave the item itself out of the matches of an `ItemId`.
            vector_model_digest: digest of the model that made the vectors; must be the collection's.
            timeout_s: see the class.
            request_id: see the class.
        """
        operation = operations.search(
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
        return self._call(operation, timeout_s, request_id)

    def list_models(self, *, timeout_s: float | None = None, request_id: str = "") -> list[ModelInfo]:
        """Returns the cards of all models, ordered by name."""
        return self._call(operations.list_models(), timeout_s, request_id)

    def get_model(self, model: str = "", *, timeout_s: float | None = None, request_id: str = "") -> ModelInfo:
        """Returns the card of a model; empty: of the server's default."""
        return self._call(operations.get_model(model), timeout_s, request_id)

    def health(self, service: str = "", *, timeout_s: float | None = None, request_id: str = "") -> HealthStatus:
        """Returns the health of the server, or of one of its services. Never retried."""
        return self._call(operations.health(service), timeout_s, request_id)

    def wait_ready(self, *, timeout_s: float = 60.0, request_id: str = "") -> None:
        """Waits until the server is serving; raises Unavailable if it is not within `timeout_s`."""
        with waiting(timeout_s):
            self._call(operations.wait_ready(), timeout_s, request_id)

    def _call(self, operation: Operation[R, A], timeout_s: float | None, request_id: str) -> A:
        return self._transport.call(
            operation,
            timeout_s=operation.deadline_s(timeout_s, self._timeout_s),
            request_id=request_id_for(request_id),
        )
