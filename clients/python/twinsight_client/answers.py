"""Turns response messages into the results that callers get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Protocol, TypeVar

from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight.v1 import model_service_pb2 as models_pb
from twinsight.v1 import types_pb2
from twinsight_client.errors import Unavailable
from twinsight_client.images import vector_array
from twinsight_client.metadata import metadata_values
from twinsight_client.model_cards import Calibration, ModelInfo, ModelTask, OperatingPoint
from twinsight_client.results import (
    Box,
    CallInfo,
    CollectionInfo,
    CollectionState,
    Comparison,
    DeleteResults,
    Detection,
    Embedding,
    HealthStatus,
    IngestResults,
    Item,
    ItemError,
    Label,
    Match,
    Metric,
    ModelReference,
    ModelResults,
    Results,
)
from twinsight_client.status import item_error

NOT_SERVING = "NOT_SERVING"
METRICS = {
    Metric.UNSPECIFIED: collections_pb.METRIC_UNSPECIFIED,
    Metric.COSINE: collections_pb.METRIC_COSINE,
    Metric.EUCLIDEAN: collections_pb.METRIC_EUCLIDEAN,
    Metric.DOT: collections_pb.METRIC_DOT,
}
_METRICS = {number: metric for metric, number in METRICS.items()}
_STATES = {
    collections_pb.COLLECTION_STATE_READY: CollectionState.READY,
    collections_pb.COLLECTION_STATE_REBUILDING: CollectionState.REBUILDING,
    collections_pb.COLLECTION_STATE_DAMAGED: CollectionState.DAMAGED,
}
_TASKS = {
    models_pb.MODEL_TASK_EMBEDDING: ModelTask.EMBEDDING,
    models_pb.MODEL_TASK_CLASSIFICATION: ModelTask.CLASSIFICATION,
    models_pb.MODEL_TASK_DETECTION: ModelTask.DETECTION,
}
_HEALTH = {
    health_pb2.HealthCheckResponse.SERVING: HealthStatus.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING: HealthStatus.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN: HealthStatus.SERVICE_UNKNOWN,
}
T = TypeVar("T")


class _Answer(Protocol):
    """One element of a `results` list: a oneof of a value and an error; the error's code is 0 if it is not set."""

    @property
    def error(self) -> status_pb2.Status: ...


A = TypeVar("A", bound=_Answer)


@dataclass(frozen=True)
class Sent:
    """What one message of a stream holds.

    Attributes:
        start: number of its first thing in the stream, from 0.
        count: how many things it has.
        unsent: errors of those that could not be read or sent, by their numbers in the stream; they stand whatever the
            server said of what was sent instead.
    """

    start: int
    count: int
    unsent: Mapping[int, ItemError]


def embeddings(response: inference_pb.EmbedResponse, call: CallInfo) -> ModelResults[Embedding]:
    """Returns the vectors of an Embed."""
    model = _model_reference(response.model)
    return ModelResults(_each(response.results, _embedding_of(model)), model=model, call=call)


def stream_embeddings(
    response: inference_pb.EmbedStreamResponse, call: CallInfo, sent: Sent
) -> ModelResults[Embedding]:
    """Returns the vectors of one message of an EmbedStream."""
    if response.error.code:
        return ModelResults(_all_rejected(response.error, sent), model=ModelReference(), call=call)
    model = _model_reference(response.model)
    return ModelResults(_each(response.results, _embedding_of(model), sent=sent), model=model, call=call)


def comparisons(response: inference_pb.CompareResponse, call: CallInfo) -> ModelResults[Comparison]:
    """Returns the comparisons of a Compare."""
    return ModelResults(_each(response.results, _comparison), model=_model_reference(response.model), call=call)


def classifications(response: inference_pb.ClassifyResponse, call: CallInfo) -> ModelResults[list[Label]]:
    """Returns the labels of a Classify, most probable first."""
    return ModelResults(_each(response.results, _labels), model=_model_reference(response.model), call=call)


def detections(response: inference_pb.DetectResponse, call: CallInfo) -> ModelResults[list[Detection]]:
    """Returns the detections of a Detect, highest score first."""
    return ModelResults(_each(response.results, _detections), model=_model_reference(response.model), call=call)


def collection(
    response: (collections_pb.CreateCollectionResponse | collections_pb.GetCollectionResponse),
    _call: CallInfo,
) -> CollectionInfo:
    """Returns the collection of a CreateCollection or GetCollection."""
    return _collection(response.collection)


def collections(response: collections_pb.ListCollectionsResponse, _call: CallInfo) -> list[CollectionInfo]:
    """Returns the collections of a ListCollections."""
    return [_collection(one) for one in response.collections]


def nothing(_response: Message, _call: CallInfo) -> None:
    """Returns nothing, for calls whose response is empty."""


def upserted(response: collections_pb.UpsertItemsResponse, call: CallInfo) -> Results[str]:
    """Returns the ids of an UpsertItems."""
    return Results(_each(response.results, lambda result: result.id), call=call)


def ingested(response: collections_pb.IngestItemsResponse, call: CallInfo, sent: Sent) -> IngestResults:
    """Returns the ids of one batch of an IngestItems."""
    answers: list[str | ItemError]
    if response.error.code:
        answers = [*_all_rejected(response.error, sent)]
    else:
        answers = _each(response.results, lambda result: result.id, sent=sent)
    return IngestResults(answers, batch=response.batch, last_batch=response.last_batch, call=call)


def items(
    response: collections_pb.GetItemsResponse | collections_pb.ListItemsResponse, call: CallInfo
) -> Results[Item]:
    """Returns the items of a GetItems or of a page of a ListItems."""
    return Results(_each(response.results, lambda result: _item(result.item)), call=call)


def page(response: collections_pb.ListItemsResponse, call: CallInfo) -> tuple[Results[Item], str]:
    """Returns the items of one page of a ListItems and the token of the next page, which is empty on the last."""
    return items(response, call), response.next_page_token


def deleted(response: collections_pb.DeleteItemsResponse, call: CallInfo) -> DeleteResults:
    """Returns the ids of a DeleteItems."""
    answers = _each(response.results, lambda result: result.item.id)
    return DeleteResults(answers, deleted_count=response.deleted_count, call=call)


def matches(response: collections_pb.SearchResponse, call: CallInfo) -> Results[list[Match]]:
    """Returns the matches of a Search, closest first."""
    return Results(_each(response.results, lambda result: [_match(one) for one in result.matches.matches]), call=call)


def model(response: models_pb.GetModelResponse, _call: CallInfo) -> ModelInfo:
    """Returns the card of a GetModel."""
    return _model(response.model)


def models(response: models_pb.ListModelsResponse, _call: CallInfo) -> list[ModelInfo]:
    """Returns the cards of a ListModels."""
    return [_model(one) for one in response.models]


def health(response: health_pb2.HealthCheckResponse, _call: CallInfo) -> HealthStatus:
    """Returns the status of a health check."""
    return _HEALTH.get(response.status, HealthStatus.UNKNOWN)


def serving(response: health_pb2.HealthCheckResponse, call: CallInfo) -> None:
    """Returns if the server is serving.

    Raises:
        Unavailable: it is not serving yet, or no longer.
    """
    status = health(response, call)
    if status is not HealthStatus.SERVING:
        message = f"The server responds, but is {status.value}."
        raise Unavailable(message, reason=NOT_SERVING, request_id=call.request_id)


def _each(results: Iterable[A], read: Callable[[A], T], *, sent: Sent | None = None) -> list[T | ItemError]:
    """Returns each result read, or its error; `sent` is the message of a stream that they answer."""
    start, unsent = (sent.start, sent.unsent) if sent else (0, {})
    return [
        unsent.get(index) or (item_error(index, result.error) if result.error.code else read(result))
        for index, result in enumerate(results, start)
    ]


def _all_rejected(error: status_pb2.Status, sent: Sent) -> list[ItemError]:
    return [sent.unsent.get(index) or item_error(index, error) for index in range(sent.start, sent.start + sent.count)]


def _embedding_of(model: ModelReference) -> Callable[[inference_pb.EmbedResult], Embedding]:
    return lambda result: Embedding(vector=vector_array(result.embedding.vector), model_digest=model.digest)


def _comparison(result: inference_pb.CompareResult) -> Comparison:
    found = result.comparison
    return Comparison(
        cosine_similarity=found.cosine_similarity,
        euclidean_distance=found.euclidean_distance,
        probability=found.probability if found.HasField("probability") else None,
        same=found.same if found.HasField("same") else None,
        threshold=found.threshold if found.HasField("threshold") else None,
        target_fmr=found.target_fmr if found.HasField("target_fmr") else None,
        false_match_rate=found.false_match_rate if found.HasField("false_match_rate") else None,
        false_non_match_rate=found.false_non_match_rate if found.HasField("false_non_match_rate") else None,
    )


def _labels(result: inference_pb.ClassifyResult) -> list[Label]:
    return [Label(label=one.label, probability=one.probability) for one in result.classification.labels]


def _detections(result: inference_pb.DetectResult) -> list[Detection]:
    return [
        Detection(
            box=Box(x_min=one.box.x_min, y_min=one.box.y_min, x_max=one.box.x_max, y_max=one.box.y_max),
            label=one.label,
            score=one.score,
        )
        for one in result.detections.detections
    ]


def _match(found: collections_pb.Match) -> Match:
    vector = found.vector  # each access to the field copies it
    return Match(
        found.id,
        found.score,
        found.distance,
        found.probability if found.HasField("probability") else None,
        metadata_values(found.metadata),
        vector_array(vector) if vector else None,
    )


def _item(stored: collections_pb.Item) -> Item:
    return Item(
        id=stored.id,
        metadata=metadata_values(stored.metadata),
        vector=vector_array(stored.vector) if stored.vector else None,
    )


def _collection(stored: collections_pb.Collection) -> CollectionInfo:
    return CollectionInfo(
        id=stored.id,
        model=stored.model,
        dimension=stored.dimension,
        metric=_METRICS.get(stored.metric, Metric.UNSPECIFIED),
        model_digest=stored.model_digest,
        item_count=stored.item_count,
        indexed_count=stored.indexed_count,
        state=_STATES.get(stored.state, CollectionState.UNSPECIFIED),
        create_time=stored.create_time.ToDatetime(tzinfo=UTC) if stored.HasField("create_time") else None,
    )


def _model_reference(reference: types_pb2.ModelReference) -> ModelReference:
    return ModelReference(name=reference.name, digest=reference.digest)


def _model(card: models_pb.Model) -> ModelInfo:
    return ModelInfo(
        name=card.name,
        digest=card.digest,
        task=_TASKS.get(card.task, ModelTask.UNSPECIFIED),
        input_height=card.input_height,
        input_width=card.input_width,
        dimension=card.dimension,
        labels=tuple(card.labels),
        calibration=_calibration(card.calibration) if card.HasField("calibration") else None,
        licence=card.licence,
        training_data=card.training_data,
        description=card.description,
        scores=dict(sorted(card.scores.items())),
        architecture=card.architecture,
        is_default=card.is_default,
    )


def _calibration(stated: models_pb.Calibration) -> Calibration:
    return Calibration(
        meaning=stated.meaning,
        threshold=stated.threshold,
        false_match_rate=stated.false_match_rate,
        false_non_match_rate=stated.false_non_match_rate,
        expected_calibration_error=stated.expected_calibration_error,
        false_match_rate_low=stated.false_match_rate_low if stated.HasField("false_match_rate_low") else None,
        false_match_rate_high=stated.false_match_rate_high if stated.HasField("false_match_rate_high") else None,
        false_non_match_rate_low=(
            stated.false_non_match_rate_low if stated.HasField("false_non_match_rate_low") else None
        ),
        false_non_match_rate_high=(
            stated.false_non_match_rate_high if stated.HasField("false_non_match_rate_high") else None
        ),
        operating_points=tuple(
            OperatingPoint(
                target_fmr=point.target_fmr,
                threshold=point.threshold,
                false_match_rate=point.false_match_rate,
                false_match_rate_low=point.false_match_rate_low,
                false_match_rate_high=point.false_match_rate_high,
                false_non_match_rate=point.false_non_match_rate,
                false_non_match_rate_low=point.false_non_match_rate_low,
                false_non_match_rate_high=point.false_non_match_rate_high,
            )
            for point in stated.operating_points
        ),
    )
