"""Answers as a caller sees them: frozen records, and `Results`, the one form in which many answers arrive.

Every call that takes many things answers each on its own, so one bad picture never fails its neighbours. `Results`
holds those answers in the request's order, and a caller chooses how to take them:

    results = client.embed(["a.jpg", "broken.jpg"])
    results.values()        # every value, or the first error raised
    results.errors()        # the ItemErrors alone
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
"""What a metadata field can hold. Reads back as `str`, `int`, `float`, `bool` or a tuple of `str`."""
Vector: TypeAlias = NDArray[np.float32]


class Metric(StrEnum):
    """How nearness is measured. `score` is higher the closer, whatever the metric."""

    UNSPECIFIED = "unspecified"
    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    DOT = "dot"


class CollectionState(StrEnum):
    """How a collection answers at the moment: `rebuilding` is exact and slower, `damaged` answers DATA_LOSS."""

    UNSPECIFIED = "unspecified"
    READY = "ready"
    REBUILDING = "rebuilding"
    DAMAGED = "damaged"


class HealthStatus(StrEnum):
    """What the server says of itself; only `serving` takes calls."""

    UNKNOWN = "unknown"
    SERVING = "serving"
    NOT_SERVING = "not_serving"
    SERVICE_UNKNOWN = "service_unknown"


@dataclass(frozen=True)
class StageTimes:
    """Where the server spent the call, in milliseconds; None for a stage that did not take place."""

    decode_ms: float | None = None
    queue_ms: float | None = None
    compute_ms: float | None = None
    search_ms: float | None = None
    write_ms: float | None = None
    total_ms: float | None = None


@dataclass(frozen=True)
class CallInfo:
    """What the server says about the call itself."""

    request_id: str = ""
    times: StageTimes = StageTimes()


@dataclass(frozen=True)
class ModelReference:
    """Which model answered. Vectors compare only under equal digests."""

    name: str = ""
    digest: str = ""


@dataclass(frozen=True)
class ItemError:
    """Why one item of many has no answer.

    Attributes:
        index: position in what the caller gave, from 0; for a stream, over the whole stream.
        code: name of the gRPC status code.
        reason: stable UPPER_SNAKE_CASE word for programs.
        message: the name, the value and the rule, for a person.
        field: path of the field in the message (`images[3].encoded`); empty if there is none.
    """

    index: int
    code: str
    reason: str
    message: str
    field: str = ""

    def exception(self, *, request_id: str = "") -> TwinsightClientError:
        """Returns the error of the client's tree that says the same."""
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
        """Every value, in order.

        Raises:
            TwinsightClientError: an item has no value; the class is that of the first such item's status code.
        """
        errors = self.errors()
        if errors:
            raise errors[0].exception(request_id=self.call.request_id)
        return self.successes()

    def errors(self) -> list[ItemError]:
        """The errors alone, in order; empty when all went well."""
        return [answer for answer in self._answers if isinstance(answer, ItemError)]

    def successes(self) -> list[T]:
        """The values alone, in order, whatever became of the others."""
        return [answer for answer in self._answers if not isinstance(answer, ItemError)]


class ModelResults(Results[T]):
    """Results that a model made.

    Attributes:
        model: the model that answered; empty where the message as a whole was refused.
    """

    def __init__(
        self, answers: Sequence[T | ItemError], *, model: ModelReference, call: CallInfo | None = None
    ) -> None:
        super().__init__(answers, call=call)
        self.model = model


class IngestResults(Results[str]):
    """What became of one batch of a bulk write: the id of each item that is on disk now.

    Attributes:
        batch: number of the batch, from 1.
        last_batch: highest batch on disk under the write's `ingest_id`; 0 without one.
    """

    def __init__(
        self, answers: Sequence[str | ItemError], *, batch: int, last_batch: int, call: CallInfo | None = None
    ) -> None:
        super().__init__(answers, call=call)
        self.batch = batch
        self.last_batch = last_batch


class DeleteResults(Results[str]):
    """What became of the ids to delete; empty for a deletion by filter.

    Attributes:
        deleted_count: how many items are gone.
    """

    def __init__(self, answers: Sequence[str | ItemError], *, deleted_count: int, call: CallInfo | None = None) -> None:
        super().__init__(answers, call=call)
        self.deleted_count = deleted_count


@dataclass(frozen=True, eq=False)
class Embedding:
    """A picture as a vector. May be given wherever a vector may: the client then sends whose it is.

    Attributes:
        vector: [dimension] float32, of length 1 (L2 norm), read-only.
        model_digest: digest of the model that made it; empty: not known.
    """

    vector: Vector
    model_digest: str = ""

    @property
    def dimension(self) -> int:
        """Number of components."""
        return len(self.vector)


@dataclass(frozen=True)
class Comparison:
    """How alike two pictures are.

    Attributes:
        cosine_similarity: -1..1; 1 is the same direction.
        euclidean_distance: 0..2, between the vectors at length 1.
        probability: calibrated, 0..1, that both show the same, at even odds; None where the model has no calibration.
        same: whether `cosine_similarity` reaches `threshold`; None with `probability`.
        threshold: cosine similarity at and above which `same` is true here, -1..1; None with `probability`.
        target_fmr: false match rate that the threshold was chosen for; None at the model's default point.
        false_match_rate: share of held-out different pairs that pass the threshold, 0..1; None with `probability`.
        false_non_match_rate: share of held-out same pairs that fail it, 0..1; None with `probability`.
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
    """What a picture shows.

    Attributes:
        label: one of the model's labels.
        probability: that it is the picture's, 0..1; those of all the model's labels add up to 1.
    """

    label: str
    probability: float


class Box(NamedTuple):
    """A rectangle in fractions of the upright picture's width and height; (0, 0) is the top left corner.

    May be given as the region of an `ImageInput`.

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
    """A thing in a picture.

    Attributes:
        box: where it is in the whole picture, also where a region of it was looked at.
        label: what it is, one of the model's labels.
        score: how sure the model is, above 0, at most 1; not a calibrated probability.
    """

    box: Box
    label: str
    score: float


@dataclass(frozen=True)
class Match:
    """An item that was found.

    Attributes:
        id: the item's id.
        score: higher is closer, whatever the metric.
        distance: the metric's own; lower is closer.
        probability: calibrated, 0..1, that it is the same, at even odds: of one pair by itself; None if not known.
        metadata: the item's fields; empty unless asked for.
        vector: [dimension] float32, read-only; None unless asked for. Left out of comparisons of matches.
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
        vector: [dimension] float32, read-only; None unless asked for. Left out of comparisons of items.
    """

    id: str
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    vector: Vector | None = field(default=None, compare=False)


@dataclass(frozen=True)
class CollectionInfo:
    """A set of items whose vectors compare with one another.

    Attributes:
        id: its name.
        model: name of the model to which it was bound; empty: vectors made elsewhere. By now another model may be
            served under that name, so it is not for `embed`: hand pictures to `upsert` and `search` themselves, which
            take the model of `model_digest` or refuse them.
        dimension: components of each vector.
        metric: how nearness is measured.
        model_digest: digest of the model to which it is bound.
        item_count: items in it.
        indexed_count: items that the index has taken in, all once it has caught up; the rest are scanned exactly. 0
            while the collection is too small for a graph.
        state: how it answers.
        create_time: when it was made, in UTC.
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
