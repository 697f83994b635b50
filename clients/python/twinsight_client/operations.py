"""Every call of the API as a value: request, deadline, whether it may be retried, and how to parse the response.

The sync and the asyncio client build the same operations; they differ only in how they send them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight.v1 import model_service_pb2 as models_pb
from twinsight_client import answers
from twinsight_client.deadlines import INFERENCE_S, MANAGE_S, PURGE_S, SEARCH_S, WRITE_S, checked_timeout
from twinsight_client.digests import vector_digest
from twinsight_client.errors import FieldViolation, InvalidArgument
from twinsight_client.filters import Filter, filter_message
from twinsight_client.images import Content, ImageLike, content_message, image_message
from twinsight_client.items import ItemId, NewItem, item_message, items_digest
from twinsight_client.model_cards import ModelInfo
from twinsight_client.results import (
    CallInfo,
    CollectionInfo,
    Comparison,
    DeleteResults,
    Detection,
    Embedding,
    HealthStatus,
    Item,
    Label,
    Match,
    Metric,
    ModelResults,
    Results,
)
from twinsight_client.retry import Repeat
from twinsight_client.unicode_text import check_text

INFERENCE_SERVICE = "/twinsight.v1.InferenceService/"
COLLECTION_SERVICE = "/twinsight.v1.CollectionService/"
MODEL_SERVICE = "/twinsight.v1.ModelService/"
HEALTH_SERVICE = "/grpc.health.v1.Health/"

R = TypeVar("R", bound=Message)
A = TypeVar("A")


@dataclass(frozen=True)
class Operation(Generic[R, A]):
    """One unary call.

    Attributes:
        method: gRPC's path.
        request: the message to send.
        response: class of the response message.
        parse: turns the response into the result.
        timeout_s: deadline if the caller sets none.
        repeat: whether it may be retried.
    """

    method: str
    request: Message
    response: type[R]
    parse: Callable[[R, CallInfo], A]
    timeout_s: float
    repeat: Repeat = Repeat.WHEN_SAFE

    def deadline_s(self, *given: float | None) -> float:
        """Returns the first of `given` that is set, else the default for this kind of call.

        Raises:
            InvalidArgument: as `checked_timeout` does.
        """
        return checked_timeout(next((one for one in given if one is not None), self.timeout_s))


def embed(images: Iterable[ImageLike], *, model: str) -> Operation[inference_pb.EmbedResponse, ModelResults[Embedding]]:
    """InferenceService.Embed."""
    request = inference_pb.EmbedRequest(
        model=_model(model), images=[image_message(one) for one in _many(images, "images")]
    )
    return Operation(
        INFERENCE_SERVICE + "Embed", request, inference_pb.EmbedResponse, answers.embeddings, timeout_s=INFERENCE_S
    )


def compare(
    pairs: Iterable[tuple[Content, Content]], *, model: str, vector_model_digest: str, target_fmr: float | None
) -> Operation[inference_pb.CompareResponse, ModelResults[Comparison]]:
    """InferenceService.Compare.

    Raises:
        InvalidArgument: embeddings of several models, or of a model other than `vector_model_digest`.
    """
    sides = [(left, right) for left, right in _many(pairs, "pairs")]
    contents = [
        (f"pairs[{place}].{name}.vector", side)
        for place, pair in enumerate(sides)
        for name, side in zip(("left", "right"), pair, strict=True)
    ]
    digest = vector_digest(contents, given=vector_model_digest)
    request = inference_pb.CompareRequest(
        model=_model(model),
        pairs=[
            inference_pb.ComparePair(left=_compare_input(left), right=_compare_input(right)) for left, right in sides
        ],
        vector_model_digest=digest,
        target_fmr=target_fmr,
    )
    return Operation(
        INFERENCE_SERVICE + "Compare", request, inference_pb.CompareResponse, answers.comparisons, timeout_s=INFERENCE_S
    )


def classify(
    images: Iterable[ImageLike], *, model: str, top_k: int
) -> Operation[inference_pb.ClassifyResponse, ModelResults[list[Label]]]:
    """InferenceService.Classify.

    Raises:
        InvalidArgument: `top_k` is out of range for the message.
    """
    _check_int32("top_k", top_k)
    request = inference_pb.ClassifyRequest(
        model=_model(model), images=[image_message(one) for one in _many(images, "images")], top_k=top_k
    )
    return Operation(
        INFERENCE_SERVICE + "Classify",
        request,
        inference_pb.ClassifyResponse,
        answers.classifications,
        timeout_s=INFERENCE_S,
    )


def detect(
    images: Iterable[ImageLike], *, model: str, score_threshold: float | None, max_detections: int
) -> Operation[inference_pb.DetectResponse, ModelResults[list[Detection]]]:
    """InferenceService.Detect.

    Raises:
        InvalidArgument: `max_detections` is out of range for the message.
    """
    _check_int32("max_detections", max_detections)
    request = inference_pb.DetectRequest(
        model=_model(model),
        images=[image_message(one) for one in _many(images, "images")],
        score_threshold=score_threshold,
        max_detections=max_detections,
    )
    return Operation(
        INFERENCE_SERVICE + "Detect", request, inference_pb.DetectResponse, answers.detections, timeout_s=INFERENCE_S
    )


def create_collection(
    collection: str, *, model: str, dimension: int, metric: Metric | str
) -> Operation[collections_pb.CreateCollectionResponse, CollectionInfo]:
    """CollectionService.CreateCollection.

    Raises:
        InvalidArgument: `metric` is not a metric, or `dimension` is out of range for the message.
    """
    _check_int32("collection.dimension", dimension)
    try:
        number = answers.METRICS[Metric(metric)]
    except ValueError as error:
        names = ", ".join(one.value for one in Metric if one is not Metric.UNSPECIFIED)
        raise InvalidArgument(f"`metric` (={metric}) must be one of {names}.", reason="CLIENT_CHECK") from error
    wanted = collections_pb.Collection(
        id=_collection(collection), model=_model(model), dimension=dimension, metric=number
    )
    return Operation(
        COLLECTION_SERVICE + "CreateCollection",
        collections_pb.CreateCollectionRequest(collection=wanted),
        collections_pb.CreateCollectionResponse,
        answers.collection,
        timeout_s=MANAGE_S,
        repeat=Repeat.WHEN_REFUSED,
    )


def get_collection(collection: str) -> Operation[collections_pb.GetCollectionResponse, CollectionInfo]:
    """CollectionService.GetCollection."""
    return Operation(
        COLLECTION_SERVICE + "GetCollection",
        collections_pb.GetCollectionRequest(collection=_collection(collection)),
        collections_pb.GetCollectionResponse,
        answers.collection,
        timeout_s=MANAGE_S,
    )


def list_collections() -> Operation[collections_pb.ListCollectionsResponse, list[CollectionInfo]]:
    """CollectionService.ListCollections."""
    return Operation(
        COLLECTION_SERVICE + "ListCollections",
        collections_pb.ListCollectionsRequest(),
        collections_pb.ListCollectionsResponse,
        answers.collections,
        timeout_s=MANAGE_S,
    )


def delete_collection(collection: str) -> Operation[collections_pb.DeleteCollectionResponse, None]:
    """CollectionService.DeleteCollection."""
    return Operation(
        COLLECTION_SERVICE + "DeleteCollection",
        collections_pb.DeleteCollectionRequest(collection=_collection(collection)),
        collections_pb.DeleteCollectionResponse,
        answers.nothing,
        timeout_s=MANAGE_S,
        repeat=Repeat.WHEN_REFUSED,
    )


def upsert(
    collection: str, items: Iterable[NewItem], *, vector_model_digest: str
) -> Operation[collections_pb.UpsertItemsResponse, Results[str]]:
    """CollectionService.UpsertItems.

    Raises:
        InvalidArgument: embeddings of several models, or of a model other than `vector_model_digest`.
    """
    new = _many(items, "items")
    request = collections_pb.UpsertItemsRequest(
        collection=_collection(collection),
        items=[item_message(item) for item in new],
        vector_model_digest=items_digest(new, given=vector_model_digest),
    )
    return Operation(
        COLLECTION_SERVICE + "UpsertItems", request, collections_pb.UpsertItemsResponse, answers.upserted, WRITE_S
    )


def get_items(
    collection: str, ids: Iterable[str], *, include_vectors: bool
) -> Operation[collections_pb.GetItemsResponse, Results[Item]]:
    """CollectionService.GetItems."""
    request = collections_pb.GetItemsRequest(
        collection=_collection(collection), ids=_ids(ids), include_vectors=include_vectors
    )
    return Operation(
        COLLECTION_SERVICE + "GetItems", request, collections_pb.GetItemsResponse, answers.items, timeout_s=SEARCH_S
    )


def list_items(
    collection: str,
    *,
    page_size: int,
    page_token: str,
    where: Filter | None,
    include_vectors: bool,
) -> Operation[collections_pb.ListItemsResponse, tuple[Results[Item], str]]:
    """CollectionService.ListItems: one page, and the token of the next.

    Raises:
        InvalidArgument: `page_size` is out of range for the message.
    """
    _check_int32("page_size", page_size)
    request = collections_pb.ListItemsRequest(
        collection=_collection(collection),
        page_size=page_size,
        page_token=page_token,
        filter=filter_message(where),
        include_vectors=include_vectors,
    )
    return Operation(
        COLLECTION_SERVICE + "ListItems", request, collections_pb.ListItemsResponse, answers.page, timeout_s=SEARCH_S
    )


def delete_items(
    collection: str,
    *,
    ids: Iterable[str],
    where: Filter | None,
    purge: bool,
) -> Operation[collections_pb.DeleteItemsResponse, DeleteResults]:
    """CollectionService.DeleteItems."""
    request = collections_pb.DeleteItemsRequest(
        collection=_collection(collection), ids=_ids(ids), filter=filter_message(where), purge=purge
    )
    return Operation(
        COLLECTION_SERVICE + "DeleteItems",
        request,
        collections_pb.DeleteItemsResponse,
        answers.deleted,
        timeout_s=PURGE_S if purge else WRITE_S,
        repeat=Repeat.WHEN_REFUSED,
    )


def search(
    collection: str,
    queries: Iterable[Content | ItemId],
    *,
    top_k: int,
    where: Filter | None,
    min_score: float | None,
    exact: bool,
    ef: int,
    include_metadata: bool,
    include_vectors: bool,
    exclude_self: bool,
    vector_model_digest: str,
) -> Operation[collections_pb.SearchResponse, Results[list[Match]]]:
    """CollectionService.Search.

    Raises:
        InvalidArgument: `top_k` or `ef` is out of range for the message, a query is malformed, or embeddings are of
            several models or of a model other than `vector_model_digest`.
    """
    _check_int32("top_k", top_k)
    _check_int32("ef", ef)
    wanted = _many(queries, "queries")
    contents = [(f"queries[{place}].vector", one) for place, one in enumerate(wanted)]
    digest = vector_digest(contents, given=vector_model_digest)
    request = collections_pb.SearchRequest(
        collection=_collection(collection),
        queries=[_query(one) for one in wanted],
        top_k=top_k,
        filter=filter_message(where),
        min_score=min_score,
        exact=exact,
        ef=ef,
        include_metadata=include_metadata,
        include_vectors=include_vectors,
        exclude_self=exclude_self,
        vector_model_digest=digest,
    )
    return Operation(
        COLLECTION_SERVICE + "Search", request, collections_pb.SearchResponse, answers.matches, timeout_s=SEARCH_S
    )


def list_models() -> Operation[models_pb.ListModelsResponse, list[ModelInfo]]:
    """ModelService.ListModels."""
    return Operation(
        MODEL_SERVICE + "ListModels",
        models_pb.ListModelsRequest(),
        models_pb.ListModelsResponse,
        answers.models,
        timeout_s=MANAGE_S,
    )


def get_model(model: str) -> Operation[models_pb.GetModelResponse, ModelInfo]:
    """ModelService.GetModel."""
    return Operation(
        MODEL_SERVICE + "GetModel",
        models_pb.GetModelRequest(model=_model(model)),
        models_pb.GetModelResponse,
        answers.model,
        timeout_s=MANAGE_S,
    )


def health(service: str) -> Operation[health_pb2.HealthCheckResponse, HealthStatus]:
    """Health.Check."""
    return Operation(
        HEALTH_SERVICE + "Check",
        health_pb2.HealthCheckRequest(service=check_text(service, field="service")),
        health_pb2.HealthCheckResponse,
        answers.health,
        timeout_s=MANAGE_S,
        repeat=Repeat.NEVER,
    )


def wait_ready() -> Operation[health_pb2.HealthCheckResponse, None]:
    """Health.Check, repeated until the server is serving."""
    return Operation(
        HEALTH_SERVICE + "Check",
        health_pb2.HealthCheckRequest(),
        health_pb2.HealthCheckResponse,
        answers.serving,
        timeout_s=60.0,
        repeat=Repeat.UNTIL_DEADLINE,
    )


def _compare_input(content: Content) -> inference_pb.CompareInput:
    message = content_message(content)
    if isinstance(message, bytes):
        return inference_pb.CompareInput(vector=message)
    return inference_pb.CompareInput(image=message)


def _query(query: Content | ItemId) -> collections_pb.Query:
    if isinstance(query, ItemId):
        return collections_pb.Query(item_id=check_text(query.id, field="item_id"))
    message = content_message(query)
    return collections_pb.Query(vector=message) if isinstance(message, bytes) else collections_pb.Query(image=message)


def _check_int32(path: str, value: int) -> None:
    """Rejects what the message can't hold; the limits themselves are the server's to check.

    Raises:
        InvalidArgument: `value` does not fit a signed 32-bit integer.
    """
    if not -(2**31) <= value < 2**31:
        name = path.rpartition(".")[2]
        message = f"`{name}` (={value}) must fit a signed 32-bit integer."
        raise InvalidArgument(message, reason="CLIENT_CHECK", violations=[FieldViolation(path, message)])


def _collection(name: str) -> str:
    return check_text(name, field="collection")


def _model(name: str) -> str:
    return check_text(name, field="model")


def _ids(ids: Iterable[str]) -> list[str]:
    return [check_text(one, field="ids") for one in _many(ids, "ids")]


def _many(things: Iterable[A], name: str) -> Sequence[A]:
    """Returns `things` as a sequence.

    Raises:
        TypeError: one thing instead of many.
    """
    check_many(things, name)
    return list(things)


def check_many(things: object, name: str) -> None:
    """Checks that `things` are many: a lone path, id or file's bytes would be split into characters.

    Raises:
        TypeError: one thing instead of many.
    """
    if isinstance(things, str | bytes):
        raise TypeError(f"`{name}` must be a list, even for a single value.")
