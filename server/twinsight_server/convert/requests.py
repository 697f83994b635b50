"""Converts request messages to core's types, and rejects what breaks a rule, naming the field's path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight.v1 import types_pb2 as pb
from twinsight_core.errors import InvalidImage, InvalidInput
from twinsight_core.filters import (
    MAX_ALL_VALUES,
    MAX_DEPTH,
    MAX_NODES,
    MAX_VALUES,
    AllOf,
    AnyOf,
    Equals,
    Exists,
    Filter,
    In,
    Not,
    Range,
    check_filter,
)
from twinsight_core.images import Region
from twinsight_core.index.base import Metric
from twinsight_core.metadata import MetadataValue
from twinsight_server.inference.pipeline import Picture

_METRICS: dict[collections_pb.Metric.ValueType, Metric] = {
    collections_pb.METRIC_UNSPECIFIED: Metric.COSINE,
    collections_pb.METRIC_COSINE: Metric.COSINE,
    collections_pb.METRIC_EUCLIDEAN: Metric.EUCLIDEAN,
    collections_pb.METRIC_DOT: Metric.DOT,
}


DEFAULT_TOP_K = 5
DEFAULT_SCORE_THRESHOLD = 0.5
_ROUNDING = 1e-6
"""Edges of regions are 32-bit numbers; rounding errors of their sums and differences are smaller than this."""


@dataclass(frozen=True)
class DetectionLimits:
    """Which of a picture's detections are returned.

    Attributes:
        score_threshold: least score, 0..1.
        most: largest number, those with the highest scores; None: all.
    """

    score_threshold: float
    most: int | None


def picture(message: pb.Image, *, field: str = "") -> Picture:
    """Returns the picture of an Image message, not decoded.

    Args:
        message: as received.
        field: path of the message, for its errors; empty if the caller adds it.

    Raises:
        InvalidImage: it has no source, or the number of bytes of `raw` does not match its size.
        InvalidInput: the region is out of bounds.
    """
    try:
        region = _region(message.region) if message.HasField("region") else None
        match message.WhichOneof("source"):
            case "encoded":
                return Picture(message.encoded, region)
            case "raw":
                return Picture(_pixels(message.raw), region)
            case _:
                raise InvalidImage("The image must have `encoded` or `raw` set.", reason="IMAGE_MISSING")
    except InvalidInput as error:
        raise (error.under(field) if field else error) from None


def label_count(request: inference_pb.ClassifyRequest) -> int:
    """Returns how many labels are requested, at least 1.

    Raises:
        InvalidInput: the number is negative.
    """
    if request.top_k < 0:
        raise InvalidInput(
            f"`top_k` (={request.top_k}) must be at least 0 (0: {DEFAULT_TOP_K} labels).",
            reason="TOP_K_INVALID",
            field="top_k",
        )
    return request.top_k or DEFAULT_TOP_K


def detection_limits(request: inference_pb.DetectRequest) -> DetectionLimits:
    """Returns which detections are requested.

    Raises:
        InvalidInput: a value is out of range.
    """
    threshold = request.score_threshold if request.HasField("score_threshold") else DEFAULT_SCORE_THRESHOLD
    if not 0 <= threshold <= 1:  # written so that NaN fails
        raise InvalidInput(
            f"`score_threshold` (={threshold:g}) must be between 0 and 1.",
            reason="SCORE_THRESHOLD_INVALID",
            field="score_threshold",
        )
    if request.max_detections < 0:
        raise InvalidInput(
            f"`max_detections` (={request.max_detections}) must be at least 0 (0: all).",
            reason="MAX_DETECTIONS_INVALID",
            field="max_detections",
        )
    return DetectionLimits(score_threshold=threshold, most=request.max_detections or None)


def _region(box: pb.Box) -> Region:
    return Region(*(_within(one) for one in (box.x_min, box.y_min, box.x_max, box.y_max)))


def _within(edge: float) -> float:
    """Moves an edge that rounding has carried just past the picture's, as sums of 32-bit numbers do, back onto it."""
    return min(max(edge, 0.0), 1.0) if -_ROUNDING <= edge <= 1 + _ROUNDING else edge


def _pixels(raw: pb.RawImage) -> np.ndarray:
    if raw.height < 1 or raw.width < 1 or len(raw.rgb) != raw.height * raw.width * 3:
        raise InvalidImage(
            f"`raw` (height={raw.height}, width={raw.width}, {len(raw.rgb)} bytes) must have a height and a width of "
            "at least 1 and height x width x 3 bytes.",
            reason="IMAGE_UNREADABLE",
            field="raw",
        )
    return np.frombuffer(raw.rgb, np.uint8).reshape(raw.height, raw.width, 3)


def vector(values: bytes, dimension: int, *, field: str = "vector") -> np.ndarray:
    """Returns the vector of bytes on the wire.

    Args:
        values: little-endian float32.
        dimension: required number of components.
        field: path for the error.

    Returns:
        [dimension] float32, finite; a view of `values`.

    Raises:
        InvalidInput: wrong length, or a component is NaN or infinite.
    """
    if len(values) != 4 * dimension:
        raise InvalidInput(
            f"`vector` has {len(values)} bytes; it must have 4 x {dimension} (float32, little-endian).",
            reason="VECTOR_INVALID",
            field=field,
        )
    array = np.frombuffer(values, "<f4").astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise InvalidInput("`vector` must not contain NaN or infinity.", reason="VECTOR_INVALID", field=field)
    return array


def vectors(values: Sequence[bytes], dimension: int) -> np.ndarray | None:
    """Returns the vectors of bytes on the wire, `[n, dimension] float32`; None if one has the wrong length."""
    if any(len(one) != 4 * dimension for one in values):
        return None
    return np.frombuffer(b"".join(values), "<f4").reshape(-1, dimension).astype(np.float32, copy=False)


def metadata(messages: Mapping[str, pb.Value]) -> dict[str, MetadataValue]:
    """Returns metadata as Python values.

    Raises:
        InvalidInput: a value has no kind.
    """
    return {name: value(message, field=f"metadata[{name!r}]") for name, message in messages.items()}


def value(message: pb.Value, *, field: str) -> MetadataValue:
    """Returns one typed value.

    Raises:
        InvalidInput: it has no kind.
    """
    match message.WhichOneof("kind"):
        case "string_value":
            return message.string_value
        case "integer_value":
            return message.integer_value
        case "float_value":
            return message.float_value
        case "bool_value":
            return message.bool_value
        case "string_list":
            return tuple(message.string_list.values)
        case _:
            raise InvalidInput(f"`{field}` has no value.", reason="VALUE_MISSING", field=field)


def search_filter(message: pb.Filter, *, field: str = "filter") -> Filter:
    """Returns a filter.

    Raises:
        InvalidInput: a part of it is empty, it is too deep, or it breaks a rule of `twinsight_core.filters`.
    """
    found = _filter(message, field, depth=1, left=_Left())
    check_filter(found, field=field)
    return found


@dataclass
class _Left:
    """What a filter may still contain: a huge one is rejected before it is built."""

    nodes: int = MAX_NODES
    values: int = MAX_ALL_VALUES


def _filter(message: pb.Filter, field: str, *, depth: int, left: _Left) -> Filter:
    left.nodes -= 1
    if left.nodes < 0:
        raise InvalidInput(f"`filter` has over {MAX_NODES} nodes.", reason="FILTER_INVALID", field=field)
    if depth > MAX_DEPTH:
        raise InvalidInput(f"`filter` is nested deeper than {MAX_DEPTH} levels.", reason="FILTER_INVALID", field=field)
    match message.WhichOneof("kind"):
        case "all_of":
            return AllOf(_members(message.all_of, f"{field}.all_of", depth, left))
        case "any_of":
            return AnyOf(_members(message.any_of, f"{field}.any_of", depth, left))
        case "not":
            inner: pb.Filter = getattr(message, "not")
            return Not(_filter(inner, f"{field}.not", depth=depth + 1, left=left))
        case "condition":
            return _condition(message.condition, f"{field}.condition", left)
        case _:
            raise InvalidInput(f"`{field}` is empty.", reason="FILTER_INVALID", field=field)


def _members(message: pb.FilterList, field: str, depth: int, left: _Left) -> tuple[Filter, ...]:
    return tuple(
        _filter(one, f"{field}.filters[{n}]", depth=depth + 1, left=left) for n, one in enumerate(message.filters)
    )


def _condition(message: pb.Condition, field: str, left: _Left) -> Filter:
    match message.WhichOneof("test"):
        case "equals":
            return Equals(message.field, value(message.equals, field=f"{field}.equals"))
        case "in":
            values: pb.ValueList = getattr(message, "in")
            if len(values.values) > MAX_VALUES:
                raise InvalidInput(
                    f"`{field}.in` has {len(values.values)} values; it must have 1 to {MAX_VALUES}.",
                    reason="FILTER_INVALID",
                    field=f"{field}.in",
                )
            left.values -= len(values.values)
            if left.values < 0:
                raise InvalidInput(
                    f"`filter` has over {MAX_ALL_VALUES:,} values.", reason="FILTER_INVALID", field=f"{field}.in"
                )
            members = (value(one, field=f"{field}.in.values[{n}]") for n, one in enumerate(values.values))
            return In(message.field, tuple(members))
        case "range":
            gt, gte, lt, lte = (_bound(message.range, name) for name in ("gt", "gte", "lt", "lte"))
            return Range(message.field, gt=gt, gte=gte, lt=lt, lte=lte)
        case "exists":
            return Exists(message.field, message.exists)
        case _:
            raise InvalidInput(f"`{field}` has no test.", reason="FILTER_INVALID", field=field)


def _bound(message: pb.Range, name: str) -> int | float | None:
    """Returns a bound: the integer if it is set, otherwise the double; None: neither."""
    for one in (f"{name}_integer", name):
        if message.HasField(one):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            bound: int | float = getattr(message, one)
            return bound
    return None


def metric(message: collections_pb.Metric.ValueType) -> Metric:
    """Returns a metric; cosine if unspecified.

    Raises:
        InvalidInput: the number is not a Metric value.
    """
    if message not in _METRICS:
        raise InvalidInput(f"`metric` (={message}) is not a Metric value.", reason="METRIC_INVALID", field="metric")
    return _METRICS[message]
