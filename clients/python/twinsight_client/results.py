"""Results of calls: frozen records, and `Results`, the sequence that every call on many things returns.

A call that takes many things answers each on its own, so one bad picture never fails its neighbours. `Results` holds
the answers in the request's order, and the caller chooses how to read them:

    results = client.embed(["a.jpg", "broken.jpg"])
    results.values()        # all values; raises the first error
    results.errors()        # only the ItemErrors
    for answer in results:  # both, in order
        if isinstance(answer, ItemError): ...

Methods that stream (`embed_stream`, `ingest`, `list_items`) yield one `Results` for each message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from twinsight_client.errors import FieldViolation, TwinsightClientError, error_of

T = TypeVar("T")
MetadataValue: TypeAlias = str | int | float | bool | Sequence[str]
"""What a metadata field can hold. It is read back as `str`, `int`, `float`, `bool` or a tuple of `str`."""
Vector: TypeAlias = NDArray[np.float32]


class Metric(StrEnum):
    """How distance is measured. A higher `score` is closer, whatever the metric."""

    UNSPECIFIED = "unspecified"
    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    DOT = "dot"


class CollectionState(StrEnum):
    """State of a collection.

    While `rebuilding`, searches are exact and slower. A `damaged` one fails with DATA_LOSS, or with UNAVAILABLE and the
    reason COLLECTION_BROKEN until the server restarts.
    """

    UNSPECIFIED = "unspecified"
    READY = "ready"
    REBUILDING = "rebuilding"
    DAMAGED = "damaged"


class HealthStatus(StrEnum):
    """Health that the server reports; it takes calls only when `serving`."""

    UNKNOWN = "unknown"
    SERVING = "serving"
    NOT_SERVING = "not_serving"
    SERVICE_UNKNOWN = "service_unknown"


@dataclass(frozen=True)
class StageTimes:
    """Where the server spent the time of the call, in milliseconds; None for a stage that did not take place."""

    decode_ms: float | None = None
    queue_ms: float | None = None
    compute_ms: float | None = None
    search_ms: float | None = None
    write_ms: float | None = None
    total_ms: float | None = None


@dataclass(frozen=True)
class CallInfo:
    """The id of a call and the time its stages took."""

    request_id: str = ""
    times: StageTimes = StageTimes()


@dataclass(frozen=True)
class ModelReference:
    """The model that answered. Vectors are only comparable if their digests are equal."""

    name: str = ""
    digest: str = ""


@dataclass(frozen=True)
class ItemError:
    """Why one item of many failed.

    Attributes:
        index: position in the caller's list, from 0; in a stream, over the whole stream.
        code: name of the gRPC status code.
        reason: stable UPPER_SNAKE_CASE identifier for programs.
        message: human-readable: the name, the value and the rule.
        field: path of the field in the message (`images[3].encoded`); empty if there is none.
    """

    index: int
    code: str
    reason: str
    message: str
    field: str = ""

    def exception(self, *, request_id: str = "") -> TwinsightClientError:
        """Returns the equivalent exception of `twinsight_client.errors`."""
        violations = (FieldViolation(self.field, self.message),) if self.field else ()
        return error_of(self.code, self.message, reason=self.reason, violations=violations, request_id=request_id)


class Results(Sequence[T | ItemError], Generic[T]):
    """Answers to the items of one message, in the request's order: each a value or an `ItemError`.

    Attributes:
        call: the call's id and the time its stages took.
    """

    def __init__(self, answers: Sequence[T | ItemError], *, call: CallInfo | None = None) -> None:
        self._answers = tuple(answers)
        self.call = call or CallInfo()

    @overload
    def __getitem__(self, index: int) -> T | ItemError: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T | ItemError, ...]: ...
    def __getitem__(self, index: int | slice) -> T | ItemError | tuple[T | ItemError, ...]:
        return self._answers[index]

    def __iter__(self) -> Iterator[T | ItemError]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._answers)!r})"

    def values(self) -> list[T]:
        """Returns every value, in order.

        Raises:
            TwinsightClientError: an item failed; the class is that of the first failed item's status code.
        """
        errors = self.errors()
        if errors:
            raise errors[0].exception(request_id=self.call.request_id)
        return self.successes()

    def errors(self) -> list[ItemError]:
        """Returns only the errors, in order; empty if none failed."""
        return [answer for answer in self._answers if isinstance(answer, ItemError)]

    def successes(self) -> list[T]:
        """Returns only the values, in order, without the items that failed."""
        return [answer for answer in self._answers if not isinstance(answer, ItemError)]


class ModelResults(Results[T]):
    """Results of a model.

    Attributes:
        model: the model that answered; empty if the message as a whole was rejected.
    """

    def __init__(
        self, answers: Sequence[T | ItemError], *, model: ModelReference, call: CallInfo | None = None
    ) -> None:
        super().__init__(answers, call=call)
        self.model = model


class IngestResults(Results[str]):
    """Results of one batch of a bulk write: the id of each item that is now on disk.

    Attributes:
        batch: number of the batch: how many items of the list it and those before it hold.
        last_batch: highest batch on disk under the `ingest_id`: so many items are written, or were rejected; 0 without
            an `ingest_id`.
    """

    def __init__(
        self, answers: Sequence[str | ItemError], *, batch: int, last_batch: int, call: CallInfo | None = None
    ) -> None:
        super().__init__(answers, call=call)
        self.batch = batch
        self.last_batch = last_batch


class DeleteResults(Results[str]):
    """Results for the ids to delete; empty for a deletion by filter.

    Attributes:
        deleted_count: how many items were deleted.
    """

    def __init__(self, answers: Sequence[str | ItemError], *, deleted_count: int, call: CallInfo | None = None) -> None:
        super().__init__(answers, call=call)
        self.deleted_count = deleted_count


@dataclass(frozen=True, eq=False)
class Embedding:
    """A picture as a vector. Accepted wherever a vector is; the client then sends the digest of its model, too.

    Attributes:
        vector: [dimension] float32, of length 1 (L2 norm), read-only.
        model_digest: digest of the model that made it; empty: unknown.
    """

    vector: Vector
    model_digest: str = ""

    @property
    def dimension(self) -> int:
        """Number of components."""
        return len(self.vector)


@dataclass(frozen=True)
class Comparison:
    """How similar two pictures are.

    Attributes:
        cosine_similarity: -1..1; 1 is the same direction.
        euclidean_distance: 0..2, between the vectors scaled to length 1.
        probability: calibrated, 0..1, that both show the same, at even odds; None if the model has no calibration.
        same: whether `cosine_similarity` reaches `threshold`; None if `probability` is.
        threshold: cosine similarity at and above which `same` is true here, -1..1; None if `probability` is.
        target_fmr: false match rate that the threshold was chosen for; None at the model's default point.
        false_match_rate: share of held-out different pairs that pass the threshold, 0..1; None if `probability` is.
        false_non_match_rate: share of held-out same pairs that fail it, 0..1; None if `probability` is.
    """

    cosine_similarity: float
    euclidean_distance: float
    probability: float | None = None
    same: bool | None = None
    threshold: float | None = None
    target_fmr: float | None = None
    false_match_rate: float | None = None
    false_non_match_rate: float | None = None


@dataclass(frozen=True)
class Label:
    """A label that a classifier gave a picture.

    Attributes:
        label: one of the model's labels.
        probability: probability that it is right, 0..1; over all the model's labels they add up to 1.
    """

    label: str
    probability: float


class Box(NamedTuple):
    """A rectangle in fractions of the upright picture's width and height; (0, 0) is the top left corner.

    It can be the region of an `ImageInput`.

    Attributes:
        x_min: left edge, 0..1.
        y_min: top edge, 0..1.
        x_max: right edge, 0..1.
        y_max: bottom edge, 0..1.
    """

    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True)
class Detection:
    """An object detected in a picture.

    Attributes:
        box: where it is in the whole picture, even if only a region was searched.
        label: one of the model's labels.
        score: how sure the model is, above 0, at most 1; not a calibrated probability.
    """

    box: Box
    label: str
    score: float


@dataclass(frozen=True)
class Match:
    """An item that a search found.

    Attributes:
        id: the item's id.
        score: higher is closer, whatever the metric.
        distance: distance by the collection's metric; lower is closer.
        probability: calibrated, 0..1, that query and item are the same, at even odds, of this one pair by itself; None
            if not known.
        metadata: the item's fields; empty unless requested.
        vector: [dimension] float32, read-only; None unless requested. Matches compare equal without it.
    """

    id: str
    score: float
    distance: float
    probability: float | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    vector: Vector | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Item:
    """An item as stored.

    Attributes:
        id: its id.
        metadata: its fields.
        vector: [dimension] float32, read-only; None unless requested. Items compare equal without it.
    """

    id: str
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    vector: Vector | None = field(default=None, compare=False)


@dataclass(frozen=True)
class CollectionInfo:
    """A set of items whose vectors are comparable.

    Attributes:
        id: its name.
        model: name of the model that it was bound to; empty: vectors are made elsewhere. Another model may be served
            under that name by now, so don't `embed` with it: pass the pictures themselves to `upsert` and `search`,
            which use the model of `model_digest` or reject them.
        dimension: components of each vector.
        metric: how distance is measured.
        model_digest: digest of the model that it is bound to.
        item_count: items in it.
        indexed_count: items in the index, all of them once it has caught up; the rest are scanned exactly. 0 while the
            collection is too small for a graph.
        state: see `CollectionState`.
        create_time: when it was created, in UTC.
    """

    id: str
    model: str
    dimension: int
    metric: Metric
    model_digest: str
    item_count: int
    indexed_count: int
    state: CollectionState
    create_time: datetime | None
