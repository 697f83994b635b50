"""The server of the fake clients: answers the contract's messages, with everything in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight.v1 import model_service_pb2 as models_pb
from twinsight.v1 import types_pb2
from twinsight_client.errors import AlreadyExists, FailedPrecondition, FieldViolation, NotFound, TwinsightClientError
from twinsight_client.images import vector_array
from twinsight_client.operations import COLLECTION_SERVICE, INFERENCE_SERVICE, MODEL_SERVICE
from twinsight_client.results import Vector
from twinsight_client.testing import limits
from twinsight_client.testing.cards import THRESHOLD, Cards, operating_point, reference
from twinsight_client.testing.pictures import picture_detections, picture_labels, picture_vector, refused
from twinsight_client.testing.statuses import status_of
from twinsight_client.testing.stored import MemoryCollection, probability

SERVICES = ("", *(one.strip("/") for one in (INFERENCE_SERVICE, COLLECTION_SERVICE, MODEL_SERVICE)))
"""The services that health knows; the empty name is the server as a whole."""
TOP_K = 5
"""Default number of labels for a picture."""
SCORE_THRESHOLD = 0.5
"""Default least score of a detection."""

T = TypeVar("T")
_Result = TypeVar("_Result")


class MemoryServer:
    """Answers the contract's messages.

    Args:
        models: names of the embedding models that it pretends to have; the first is the default.
        classifiers: names of those for classification.
        detectors: names of those for detection.
        dimension: components of the vectors.
    """

    def __init__(
        self,
        *,
        models: Iterable[str] = ("fake",),
        classifiers: Iterable[str] = ("fake-classifier",),
        detectors: Iterable[str] = ("fake-detector",),
        dimension: int = 16,
    ) -> None:
        self._cards = Cards(models, classifiers=classifiers, detectors=detectors, dimension=dimension)
        self._collections: dict[str, MemoryCollection] = {}
        self._failures: deque[TwinsightClientError] = deque()
        self._lock = threading.Lock()
        self.is_serving = True

    def fail_next(self, *errors: TwinsightClientError) -> None:
        """Makes the next calls, or messages of a stream, fail with one of `errors` each, without doing anything.

        As on a server, the response to a failed message of a stream is the error, and the stream continues; but
        `Unavailable`, `DeadlineExceeded` and `Cancelled` end it.
        """
        self._failures.extend(errors)

    def answer(self, request: Message) -> Message:
        """Returns the response to one message of the contract.

        Raises:
            TwinsightClientError: the call fails as a whole.
        """
        with self._lock:
            if self._failures:
                raise self._failures.popleft()
            return self._answer(request)

    def _answer(self, request: Message) -> Message:  # noqa: PLR0911, PLR0912  # one case for each call there is
        match request:
            case inference_pb.EmbedRequest():
                model, results = self._embed(request.model, request.images)
                return inference_pb.EmbedResponse(model=model, results=results)
            case inference_pb.EmbedStreamRequest():
                model, results = self._embed(request.model, request.images)
                return inference_pb.EmbedStreamResponse(model=model, results=results)
            case inference_pb.CompareRequest():
                return self._compare(request)
            case inference_pb.ClassifyRequest():
                return self._classify(request)
            case inference_pb.DetectRequest():
                return self._detect(request)
            case collections_pb.CreateCollectionRequest():
                return collections_pb.CreateCollectionResponse(collection=self._create(request.collection))
            case collections_pb.GetCollectionRequest():
                return collections_pb.GetCollectionResponse(collection=self._collection(request.collection).described())
            case collections_pb.ListCollectionsRequest():
                every = [self._collections[one].described() for one in sorted(self._collections)]
                return collections_pb.ListCollectionsResponse(collections=every)
            case collections_pb.DeleteCollectionRequest():
                self._collection(request.collection)
                del self._collections[request.collection]
                return collections_pb.DeleteCollectionResponse()
            case collections_pb.UpsertItemsRequest():
                limits.check_count(request.items, limits.MAX_ITEMS, field="items")
                collection = self._collection(request.collection)
                _check_digest(collection.digest, request.vector_model_digest)
                return collections_pb.UpsertItemsResponse(results=self._upsert(collection, request.items))
            case collections_pb.IngestItemsRequest():
                return self._ingest(request)
            case collections_pb.GetItemsRequest():
                return self._collection(request.collection).get(request)
            case collections_pb.ListItemsRequest():
                return self._collection(request.collection).list(request)
            case collections_pb.DeleteItemsRequest():
                return self._collection(request.collection).delete(request)
            case collections_pb.SearchRequest():
                return self._search(request)
            case models_pb.ListModelsRequest():
                return models_pb.ListModelsResponse(models=self._cards.all())
            case models_pb.GetModelRequest():
                return models_pb.GetModelResponse(model=self._cards.get(request.model))
            case health_pb2.HealthCheckRequest():
                if request.service not in SERVICES:
                    raise NotFound(f"The server has no service `{request.service[:80]}`.")
                answer = health_pb2.HealthCheckResponse
                return answer(status=answer.SERVING if self.is_serving else answer.NOT_SERVING)
        raise AssertionError(f"The contract has no {type(request).__name__}.")

    def _embed(
        self, name: str, images: Sequence[types_pb2.Image]
    ) -> tuple[types_pb2.ModelReference, list[inference_pb.EmbedResult]]:
        model = self._cards.get_for(models_pb.MODEL_TASK_EMBEDDING, name)
        limits.check_count(images, limits.MAX_IMAGES, field="images")

        def embed(image: types_pb2.Image, path: str) -> inference_pb.EmbedResult:
            vector = picture_vector(image, model.dimension, path)
            embedding = inference_pb.Embedding(vector=_packed(vector), dimension=model.dimension)
            return inference_pb.EmbedResult(embedding=embedding)

        results = [
            _each(embed, image, f"images[{place}]", lambda error: inference_pb.EmbedResult(error=error))
            for place, image in enumerate(images)
        ]
        return reference(model), results

    def _compare(self, request: inference_pb.CompareRequest) -> inference_pb.CompareResponse:
        model = self._cards.get_for(models_pb.MODEL_TASK_EMBEDDING, request.model)
        limits.check_count(request.pairs, limits.MAX_IMAGES // 2, field="pairs")
        _check_digest(model.digest, request.vector_model_digest)
        rate, threshold = operating_point(request.target_fmr) if request.HasField("target_fmr") else (None, THRESHOLD)

        def side(given: inference_pb.CompareInput, path: str) -> Vector:
            if given.WhichOneof("input") == "vector":
                return _unit(vector_array(given.vector), model.dimension, f"{path}.vector")
            return picture_vector(given.image, model.dimension, f"{path}.image")

        def compare(pair: inference_pb.ComparePair, path: str) -> inference_pb.CompareResult:
            left, right = side(pair.left, f"{path}.left"), side(pair.right, f"{path}.right")
            cosine = float(left @ right)
            comparison = inference_pb.Comparison(
                cosine_similarity=cosine,
                euclidean_distance=float(np.linalg.norm(left - right)),
                probability=probability(cosine),
                same=cosine >= threshold,
                threshold=threshold,
                target_fmr=rate,
                false_match_rate=0.0,  # as in the fake models' cards
                false_non_match_rate=0.0,
            )
            return inference_pb.CompareResult(comparison=comparison)

        results = [
            _each(compare, pair, f"pairs[{place}]", lambda error: inference_pb.CompareResult(error=error))
            for place, pair in enumerate(request.pairs)
        ]
        return inference_pb.CompareResponse(model=reference(model), results=results)

    def _classify(self, request: inference_pb.ClassifyRequest) -> inference_pb.ClassifyResponse:
        if request.top_k < 0:
            raise refused(
                "TOP_K_INVALID", "top_k", f"`top_k` (={request.top_k}) must be at least 0 (0: {TOP_K} labels)."
            )
        model = self._cards.get_for(models_pb.MODEL_TASK_CLASSIFICATION, request.model)
        limits.check_count(request.images, limits.MAX_IMAGES, field="images")

        def classify(image: types_pb2.Image, path: str) -> inference_pb.ClassifyResult:
            labels = picture_labels(image, model.labels, path)[: request.top_k or TOP_K]
            return inference_pb.ClassifyResult(classification=inference_pb.Classification(labels=labels))

        results = [
            _each(classify, image, f"images[{place}]", lambda error: inference_pb.ClassifyResult(error=error))
            for place, image in enumerate(request.images)
        ]
        return inference_pb.ClassifyResponse(model=reference(model), results=results)

    def _detect(self, request: inference_pb.DetectRequest) -> inference_pb.DetectResponse:
        threshold = request.score_threshold if request.HasField("score_threshold") else SCORE_THRESHOLD
        if not 0 <= threshold <= 1:
            message = f"`score_threshold` (={threshold:g}) must be between 0 and 1."
            raise refused("SCORE_THRESHOLD_INVALID", "score_threshold", message)
        if request.max_detections < 0:
            message = f"`max_detections` (={request.max_detections}) must be at least 0 (0: all)."
            raise refused("MAX_DETECTIONS_INVALID", "max_detections", message)
        model = self._cards.get_for(models_pb.MODEL_TASK_DETECTION, request.model)
        limits.check_count(request.images, limits.MAX_IMAGES, field="images")

        def detect(image: types_pb2.Image, path: str) -> inference_pb.DetectResult:
            found = [one for one in picture_detections(image, model.labels, path) if one.score >= threshold]
            kept = found[: request.max_detections or None]
            return inference_pb.DetectResult(detections=inference_pb.Detections(detections=kept))

        results = [
            _each(detect, image, f"images[{place}]", lambda error: inference_pb.DetectResult(error=error))
            for place, image in enumerate(request.images)
        ]
        return inference_pb.DetectResponse(model=reference(model), results=results)

    def _create(self, wanted: collections_pb.Collection) -> collections_pb.Collection:
        limits.check_collection_id(wanted.id)
        if wanted.id in self._collections:
            message = f"Collection `{wanted.id}` already exists."
            violations = [FieldViolation("collection.id", message)]
            raise AlreadyExists(message, reason="COLLECTION_EXISTS", violations=violations)
        digest, dimension = "", wanted.dimension
        if wanted.model:
            model = self._cards.get_for(models_pb.MODEL_TASK_EMBEDDING, wanted.model, field="collection.model")
            digest, dimension = model.digest, model.dimension
        if not 1 <= dimension <= limits.MAX_DIMENSION or wanted.dimension not in {0, dimension}:
            most = limits.MAX_DIMENSION
            message = f"`dimension` (={wanted.dimension}) must be 1 to {most}, and the model's where one is named."
            raise refused("DIMENSION_INVALID", "collection.dimension", message)
        created = MemoryCollection(
            wanted.id,
            model=wanted.model,
            digest=digest,
            dimension=dimension,
            metric=wanted.metric or collections_pb.METRIC_COSINE,
        )
        self._collections[wanted.id] = created
        return created.described()

    def _upsert(
        self, collection: MemoryCollection, items: Iterable[collections_pb.NewItem]
    ) -> list[collections_pb.UpsertResult]:
        def write(item: collections_pb.NewItem, path: str) -> collections_pb.UpsertResult:
            kept = item.WhichOneof("input") == "keep_vector" and item.keep_vector
            vector = collection.vector_of(item.id, f"{path}.id") if kept else self._content(collection, item, path)
            collection.put(item, vector, path)
            return collections_pb.UpsertResult(id=item.id)

        return [
            _each(write, item, f"items[{place}]", lambda error: collections_pb.UpsertResult(error=error))
            for place, item in enumerate(items)
        ]

    def _ingest(self, request: collections_pb.IngestItemsRequest) -> collections_pb.IngestItemsResponse:
        collection = self._collection(request.collection)
        last = collection.last_batches.get(request.ingest_id, 0)
        if not request.items:
            return collections_pb.IngestItemsResponse(batch=request.batch, last_batch=last)
        limits.check_count(request.items, limits.MAX_ITEMS, field="items")
        if request.ingest_id:
            limits.check_checkpoint(request.ingest_id, request.batch)
        _check_digest(collection.digest, request.vector_model_digest)
        results: list[collections_pb.UpsertResult] = []
        if not (request.ingest_id and request.batch <= last):
            if request.ingest_id and not collection.model:  # else one that resumes after the batch would lose the item
                for place, item in enumerate(request.items):
                    if item.WhichOneof("input") == "image" and item.image.WhichOneof("source"):
                        self._content(collection, item, f"items[{place}]")
            results = self._upsert(collection, request.items)
            if request.ingest_id:
                last = collection.last_batches[request.ingest_id] = request.batch
        return collections_pb.IngestItemsResponse(batch=request.batch, results=results, last_batch=last)

    def find(self, collection: str) -> MemoryCollection | None:
        """Returns the collection with an id; None if there is none."""
        return self._collections.get(collection)

    def last_batch(self, collection: str, ingest_id: str) -> int:
        """Returns the highest batch written under `ingest_id`; 0 if there is none."""
        found = self.find(collection)
        return found.last_batches.get(ingest_id, 0) if found else 0

    def _search(self, request: collections_pb.SearchRequest) -> collections_pb.SearchResponse:
        collection = self._collection(request.collection)
        limits.check_count(request.queries, limits.MAX_IMAGES, field="queries")
        _check_digest(collection.digest, request.vector_model_digest)
        limits.check_search(request)

        def search(query: collections_pb.Query, path: str) -> collections_pb.SearchResult:
            if query.WhichOneof("input") == "item_id":
                vector = collection.vector_of(query.item_id, f"{path}.item_id")
            else:
                vector = self._content(collection, query, path)
            itself = query.item_id if request.exclude_self else ""
            return collections_pb.SearchResult(matches=collection.nearest(vector, request, without=itself))

        results = [
            _each(search, query, f"queries[{place}]", lambda error: collections_pb.SearchResult(error=error))
            for place, query in enumerate(request.queries)
        ]
        return collections_pb.SearchResponse(results=results)

    def _content(
        self, collection: MemoryCollection, given: collections_pb.NewItem | collections_pb.Query, path: str
    ) -> Vector:
        """Returns the vector of an item or query, given as a picture or a vector."""
        match given.WhichOneof("input"):
            case "vector":
                return collection.checked(vector_array(given.vector), f"{path}.vector")
            case "image" if collection.model:
                return picture_vector(given.image, collection.dimension, f"{path}.image")
            case "image":
                message = f"Collection `{collection.id}` is bound to no model: it accepts vectors, not images."
                violations = [FieldViolation(f"{path}.image", message)]
                raise FailedPrecondition(message, reason="COLLECTION_UNBOUND", violations=violations)
        raise refused("INPUT_MISSING", path, "An image or a vector must be set.")

    def _collection(self, name: str) -> MemoryCollection:
        if name not in self._collections:
            there = ", ".join(f"`{one}`" for one in sorted(self._collections)) or "none"
            message = f"Collection `{name}` does not exist; available: {there}."
            violations = [FieldViolation("collection", message)]
            raise NotFound(message, reason="COLLECTION_NOT_FOUND", violations=violations)
        return self._collections[name]


def _check_digest(digest: str, given: str) -> None:
    if given and given != digest:
        message = f"`vector_model_digest` (=`{given}`) does not match: the model here has digest `{digest}`."
        violations = [FieldViolation("vector_model_digest", message)]
        raise FailedPrecondition(message, reason="MODEL_MISMATCH", violations=violations)


def _each(
    do: Callable[[T, str], _Result], thing: T, path: str, failed: Callable[[status_pb2.Status], _Result]
) -> _Result:
    """Returns the result of `do` for one thing, or a result with its error."""
    try:
        return do(thing, path)
    except TwinsightClientError as error:
        return failed(status_of(error))


def _unit(vector: Vector, dimension: int, path: str) -> Vector:
    length = np.linalg.norm(vector.astype(np.float64))
    if vector.shape != (dimension,) or not np.isfinite(length) or length == 0:
        raise refused("VECTOR_INVALID", path, f"`vector` must have {dimension} finite components, not all zero.")
    return (vector / length).astype(np.float32)


def _packed(vector: Vector) -> bytes:
    return vector.astype("<f4").tobytes()
