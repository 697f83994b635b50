"""Converts core's results to messages."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence

import numpy as np
from google.protobuf import timestamp_pb2

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight.v1 import model_service_pb2 as models_pb
from twinsight.v1 import types_pb2 as pb
from twinsight_core.calibration import Calibration
from twinsight_core.comparison import Comparison
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, CollectionState, CollectionStatus, Item, Match
from twinsight_core.metadata import Metadata
from twinsight_core.models.tasks import Task
from twinsight_core.packages import ModelPackage
from twinsight_server.convert.boxes import picture_boxes
from twinsight_server.convert.requests import DetectionLimits
from twinsight_server.inference.pipeline import Picture

_METRIC_VALUES: dict[Metric, collections_pb.Metric.ValueType] = {
    Metric.COSINE: collections_pb.METRIC_COSINE,
    Metric.EUCLIDEAN: collections_pb.METRIC_EUCLIDEAN,
    Metric.DOT: collections_pb.METRIC_DOT,
}
_STATES: dict[CollectionState, collections_pb.CollectionState.ValueType] = {
    CollectionState.READY: collections_pb.COLLECTION_STATE_READY,
    CollectionState.REBUILDING: collections_pb.COLLECTION_STATE_REBUILDING,
    CollectionState.DAMAGED: collections_pb.COLLECTION_STATE_DAMAGED,
}
_TASK_VALUES: dict[Task, models_pb.ModelTask.ValueType] = {
    "embedding": models_pb.MODEL_TASK_EMBEDDING,
    "classification": models_pb.MODEL_TASK_CLASSIFICATION,
    "detection": models_pb.MODEL_TASK_DETECTION,
}


def vector_bytes(array: np.ndarray) -> bytes:
    """Returns [dimension] float32 as little-endian bytes."""
    return array.astype("<f4", copy=False).tobytes()


def embedding_message(vector: np.ndarray) -> inference_pb.Embedding:
    """Returns a vector, [dimension] float32, as a message."""
    return inference_pb.Embedding(vector=vector_bytes(vector), dimension=len(vector))


def comparison_message(comparison: Comparison) -> inference_pb.Comparison:
    """Returns a comparison as a message."""
    decision = comparison.decision
    return inference_pb.Comparison(
        cosine_similarity=comparison.cosine_similarity,
        euclidean_distance=comparison.euclidean_distance,
        probability=comparison.probability,
        same=comparison.same,
        threshold=None if decision is None else decision.threshold,
        target_fmr=None if decision is None else decision.target_fmr,
        false_match_rate=None if decision is None else decision.false_match_rate,
        false_non_match_rate=None if decision is None else decision.false_non_match_rate,
    )


def classification_message(
    probabilities: np.ndarray, labels: Sequence[str], *, top_k: int
) -> inference_pb.Classification:
    """Returns the most probable labels as a message.

    Args:
        probabilities: [labels] float32, 0..1.
        labels: their names.
        top_k: largest number of labels, at least 1.
    """
    best: list[int] = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
    return inference_pb.Classification(
        labels=[inference_pb.Label(label=labels[number], probability=float(probabilities[number])) for number in best]
    )


def detections_message(
    answer: np.ndarray, package: ModelPackage, picture: Picture, limits: DetectionLimits
) -> inference_pb.Detections:
    """Returns what a detector found as a message.

    Args:
        answer: [rows, 6] float32, see `twinsight_core.models.tasks`.
        package: the detector's.
        picture: its input.
        limits: which detections to return.
    """
    scores = answer[:, 4]
    rows = answer[(scores >= limits.score_threshold) & (scores > 0)]
    boxes = picture_boxes(rows[:, :4], picture, package.card.preprocessing)
    # A box that lies entirely in the padding was clipped to nothing.
    extent = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    message = inference_pb.Detections()
    for box, row in list(zip(boxes[extent], rows[extent], strict=True))[: limits.most]:
        x_min, y_min, x_max, y_max = box.tolist()
        message.detections.add(
            box=pb.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max),
            label=package.card.labels[int(row[5])],
            score=float(row[4]),
        )
    return message


def write_item(message: collections_pb.Item, item: Item) -> None:
    """Writes a stored item into an empty message: composing it of separate messages takes over twice as long."""
    message.id = item.id
    if item.vector is not None:
        message.vector = vector_bytes(item.vector)
    _write_metadata(message.metadata, item.metadata)


def write_matches(
    message: collections_pb.SearchResult, matches: Sequence[Match], probabilities: Sequence[float | None]
) -> None:
    """Writes matches into a result.

    Args:
        message: an empty result.
        matches: from a collection.
        probabilities: calibrated probability of each; None without calibration.
    """
    message.matches.SetInParent()
    add = message.matches.matches.add
    for match, probability in zip(matches, probabilities, strict=True):
        written = add()
        written.id, written.score, written.distance = match.id, match.score, match.distance
        if probability is not None:
            written.probability = probability
        if match.metadata:
            _write_metadata(written.metadata, match.metadata)
        if match.vector is not None:
            written.vector = vector_bytes(match.vector)


def _write_metadata(messages: MutableMapping[str, pb.Value], values: Metadata) -> None:
    """Writes an item's fields directly into the message's map."""
    for name, value in values.items():
        message = messages[name]  # creates it
        match value:
            case bool():  # before int, which bool is a subclass of
                message.bool_value = value
            case int():
                message.integer_value = value
            case float():
                message.float_value = value
            case str():
                message.string_value = value
            case _:
                message.string_list.SetInParent()  # so that an empty list is one too
                message.string_list.values.extend(value)


def collection_message(spec: CollectionSpec, status: CollectionStatus) -> collections_pb.Collection:
    """Returns a collection's description."""
    created = timestamp_pb2.Timestamp()
    seconds = math.floor(spec.created_at)
    created.seconds, created.nanos = seconds, int((spec.created_at - seconds) * 1e9)
    return collections_pb.Collection(
        id=spec.id,
        model=spec.model_name,
        dimension=spec.dimension,
        metric=_METRIC_VALUES[spec.metric],
        model_digest=spec.model_digest,
        item_count=status.item_count,
        indexed_count=status.indexed_count,
        state=_STATES[status.state],
        create_time=created,
    )


def model_message(package: ModelPackage, *, is_default: bool) -> models_pb.Model:
    """Returns a model's card."""
    card = package.card
    return models_pb.Model(
        name=package.name,
        digest=package.digest,
        task=_TASK_VALUES[card.task],
        input_height=card.preprocessing.height_px,
        input_width=card.preprocessing.width_px,
        dimension=card.dimension,
        labels=card.labels,
        calibration=None if card.calibration is None else _calibration_message(card.calibration),
        licence=card.licence,
        training_data=card.training_data,
        description=card.description,
        scores=card.scores,
        architecture=card.architecture,
        is_default=is_default,
    )


def _calibration_message(calibration: Calibration) -> models_pb.Calibration:
    return models_pb.Calibration(
        meaning=calibration.meaning,
        threshold=calibration.threshold,
        false_match_rate=calibration.false_match_rate,
        false_match_rate_low=calibration.false_match_rate_low,
        false_match_rate_high=calibration.false_match_rate_high,
        false_non_match_rate=calibration.false_non_match_rate,
        false_non_match_rate_low=calibration.false_non_match_rate_low,
        false_non_match_rate_high=calibration.false_non_match_rate_high,
        expected_calibration_error=calibration.expected_calibration_error,
        operating_points=[
            models_pb.OperatingPoint(
                target_fmr=point.target_fmr,
                threshold=point.threshold,
                false_match_rate=point.false_match_rate,
                false_match_rate_low=point.false_match_rate_low,
                false_match_rate_high=point.false_match_rate_high,
                false_non_match_rate=point.false_non_match_rate,
                false_non_match_rate_low=point.false_non_match_rate_low,
                false_non_match_rate_high=point.false_non_match_rate_high,
            )
            for point in calibration.operating_points
        ],
    )


def model_reference(package: ModelPackage) -> pb.ModelReference:
    """Returns which model answered."""
    return pb.ModelReference(name=package.name, digest=package.digest)
