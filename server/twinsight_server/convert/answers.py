"""Core's results to messages."""

from __future__ import annotations

import math

import numpy as np
from google.protobuf import timestamp_pb2

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import model_service_pb2 as models_pb
from twinsight.v1 import types_pb2 as pb
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, CollectionState, CollectionStatus, Item, Match
from twinsight_core.metadata import Metadata, MetadataValue
from twinsight_core.packages import ModelPackage

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


def vector_bytes(array: np.ndarray) -> bytes:
    """Returns [dimension] float32 as little-endian bytes."""
    return array.astype("<f4", copy=False).tobytes()


def metadata_messages(values: Metadata) -> dict[str, pb.Value]:
    """Returns metadata as messages."""
    return {name: _value_message(one) for name, one in values.items()}


def _value_message(one: MetadataValue) -> pb.Value:
    match one:
        case bool():  # before int: True is one
            return pb.Value(bool_value=one)
        case int():
            return pb.Value(integer_value=one)
        case float():
            return pb.Value(float_value=one)
        case str():
            return pb.Value(string_value=one)
        case _:
            return pb.Value(string_list=pb.StringList(values=one))


def item_message(item: Item) -> collections_pb.Item:
    """Returns a stored item as a message."""
    return collections_pb.Item(
        id=item.id,
        vector=b"" if item.vector is None else vector_bytes(item.vector),
        metadata=metadata_messages(item.metadata),
    )


def match_message(match: Match, probability: float | None) -> collections_pb.Match:
    """Returns a match as a message.

    Args:
        match: from a collection.
        probability: its calibrated probability; None where there is no calibration.
    """
    return collections_pb.Match(
        id=match.id,
        score=match.score,
        distance=match.distance,
        metadata=None if match.metadata is None else metadata_messages(match.metadata),
        vector=b"" if match.vector is None else vector_bytes(match.vector),
        probability=probability,
    )


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
    calibration = None
    if card.calibration is not None:
        calibration = models_pb.Calibration(
            meaning=card.calibration.meaning,
            threshold=card.calibration.threshold,
            false_match_rate=card.calibration.false_match_rate,
            false_non_match_rate=card.calibration.false_non_match_rate,
            expected_calibration_error=card.calibration.expected_calibration_error,
        )
    return models_pb.Model(
        name=package.name,
        digest=package.digest,
        task=models_pb.MODEL_TASK_EMBEDDING,
        input_height=card.preprocessing.height_px,
        input_width=card.preprocessing.width_px,
        dimension=card.dimension,
        labels=card.labels,
        calibration=calibration,
        licence=card.licence,
        training_data=card.training_data,
        description=card.description,
        scores=card.scores,
        architecture=card.architecture,
        is_default=is_default,
    )


def model_reference(package: ModelPackage) -> pb.ModelReference:
    """Returns which model answered."""
    return pb.ModelReference(name=package.name, digest=package.digest)
