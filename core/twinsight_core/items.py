"""The values that collections take and return, and their rules."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from twinsight_core.errors import AnswerTooLarge, InvalidInput
from twinsight_core.filters import Filter, check_filter
from twinsight_core.index.base import Metric
from twinsight_core.metadata import Metadata, check_metadata, check_text, decode_metadata

MAX_DIMENSION = 4096
MAX_ID_BYTES = 256
MAX_INGEST_ID_BYTES = 128
MAX_EF = 4096
# The square of twice this is a float32, so that no distance between two vectors is infinite.
MAX_LENGTH = 1e18

_COLLECTION_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class CollectionSpec:
    """The fixed properties of a collection.

    Attributes:
        id: 1 to 64 letters, digits, '.', '_' or '-', not starting with '.'.
        dimension: components of each vector, 1 to 4096.
        metric: how distance is measured.
        model_name: name of the model whose vectors it holds; empty for vectors made elsewhere.
        model_digest: that model's digest; empty if `model_name` is.
        created_at: seconds since 1970-01-01 UTC.
    """

    id: str
    dimension: int
    metric: Metric = Metric.COSINE
    model_name: str = ""
    model_digest: str = ""
    created_at: float = field(default_factory=time.time)


class CollectionState(StrEnum):
    """How a collection answers at the moment."""

    READY = "ready"  # searches run at full speed
    REBUILDING = "rebuilding"  # the graph is being rebuilt; searches are exact, and slower
    DAMAGED = "damaged"  # the file can't be read, and calls raise DataLoss; or it must be reopened: Unavailable


@dataclass(frozen=True)
class CollectionStatus:
    """A collection's state and size.

    Attributes:
        state: how it answers.
        item_count: items in it.
        indexed_count: items that the index has processed, into the graph or permanently outside it; those still
            waiting are scanned exactly. 0 if there is no graph.
    """

    state: CollectionState
    item_count: int
    indexed_count: int


@dataclass(frozen=True)
class NewItem:
    """An item to write; `vector` is `[dimension] float32`."""

    id: str
    vector: np.ndarray
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class NewMetadata:
    """New fields for an existing item, replacing those it has; its vector stays."""

    id: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """An item as stored.

    Attributes:
        id: its id.
        vector: `[dimension] float32` as written, or None where it was not asked for.
        encoded_metadata: its fields as they lie on disk.
    """

    id: str
    vector: np.ndarray | None
    encoded_metadata: bytes

    @property
    def metadata(self) -> Metadata:
        """Its fields, decoded on every access: decoded they take about ten times the memory."""
        return decode_metadata(self.encoded_metadata)


class Match(NamedTuple):
    """An item that was found. A tuple takes a third of the time to create, and a call may have hundreds of them.

    Attributes:
        id: the item's id.
        score: higher is closer, whatever the metric.
        distance: the metric's own; lower is closer.
        metadata: its fields, or None if they were not asked for.
        vector: `[dimension] float32` as written, or None if it was not asked for.
    """

    id: str
    score: float
    distance: float
    metadata: Metadata | None = None
    vector: np.ndarray | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The progress of a bulk write.

    Attributes:
        ingest_id: the writer's name for it, 1 to 128 bytes.
        batch: number of this batch, 1 and up, rising.
    """

    ingest_id: str
    batch: int


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        top_k: matches for each query, at least 1.
        filter: only items that meet it.
        min_score: only matches with at least this score.
        exact: compare with every item instead of searching the graph.
        ef: width of the graph search; 0 for the collection's default.
        include_metadata: return the matches' metadata.
        include_vectors: return the matches' vectors.
        max_content_bytes: bytes of metadata and vectors, over all matches, above which the search is rejected.
    """

    top_k: int
    filter: Filter | None = None
    min_score: float | None = None
    exact: bool = False
    ef: int = 0
    include_metadata: bool = False
    include_vectors: bool = False
    max_content_bytes: int = 64 * 1024 * 1024


def is_collection_id(text: str) -> bool:
    """Returns whether a collection may have this id."""
    return _COLLECTION_ID.fullmatch(text) is not None


def check_spec(spec: CollectionSpec) -> None:
    """Checks the rules of a new collection.

    Raises:
        InvalidInput: a bad id or dimension.
    """
    if not is_collection_id(spec.id):
        raise InvalidInput(
            f"`id` (={spec.id[:80]!r}) must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', and not start with '.'.",
            reason="COLLECTION_ID_INVALID",
            field="id",
        )
    if not 1 <= spec.dimension <= MAX_DIMENSION:
        unset = "" if spec.dimension else "; for pictures set `model` instead"
        raise InvalidInput(
            f"`dimension` (={spec.dimension}) must be 1 to {MAX_DIMENSION}{unset}.",
            reason="DIMENSION_INVALID",
            field="dimension",
        )


def check_vector(vector: np.ndarray, spec: CollectionSpec) -> None:
    """Checks that a vector belongs in a collection.

    Args:
        vector: `[dimension] float32`.
        spec: the collection.

    Raises:
        InvalidInput: another dimension or type, not finite, all zero under cosine, or too long under other metrics.
    """
    if vector.shape != (spec.dimension,):
        raise _bad_vector(f"`vector` (of shape {list(vector.shape)}) must have {spec.dimension} components.")
    if vector.dtype != np.float32:
        raise _bad_vector(f"`vector` (of {vector.dtype}) must be float32.")
    square = float(np.vecdot(vector, vector, dtype=np.float64))
    if not np.isfinite(square):
        raise _bad_vector("`vector` must be finite; it has NaN or infinity.")
    if spec.metric is Metric.COSINE:
        if square == 0.0:
            raise _bad_vector("`vector` is all zero, which has no direction; the metric is cosine.")
    elif square > MAX_LENGTH**2:
        raise _bad_vector(f"`vector` (of length {square**0.5:.3g}) must be at most {MAX_LENGTH:.0e} long.")


def are_fit(vectors: np.ndarray, spec: CollectionSpec) -> bool:
    """Returns whether `check_vector` would accept each of `vectors: [n, dimension] float32`."""
    if vectors.shape[1:] != (spec.dimension,) or vectors.dtype != np.float32:
        return False
    squares: list[float] = np.vecdot(vectors, vectors, dtype=np.float64).tolist()
    # NaN is in neither range.
    if spec.metric is Metric.COSINE:
        return all(0.0 < square < math.inf for square in squares)
    return all(square <= MAX_LENGTH**2 for square in squares)


def check_queries(queries: np.ndarray, spec: CollectionSpec) -> None:
    """Checks that a collection may be searched with some vectors.

    Args:
        queries: `[n, dimension] float32`.
        spec: the collection.

    Raises:
        InvalidInput: for the first that `check_vector` rejects; `field` is `queries[i].vector`.
    """
    if are_fit(queries, spec):
        return
    for number, query in enumerate(queries):
        try:
            check_vector(query, spec)
        except InvalidInput as error:
            error.under(f"queries[{number}]")
            raise


def check_options(options: SearchOptions) -> None:
    """Checks the options of a search.

    Raises:
        InvalidInput: a bad `top_k`, `ef`, `min_score` or filter.
    """
    if options.top_k < 1:
        raise InvalidInput(f"`top_k` (={options.top_k}) must be at least 1.", reason="TOP_K_INVALID", field="top_k")
    if options.ef and not options.top_k <= options.ef <= MAX_EF:
        raise InvalidInput(
            f"`ef` (={options.ef}) must be `top_k` (={options.top_k}) to {MAX_EF}, or 0.",
            reason="EF_INVALID",
            field="ef",
        )
    if options.min_score is not None and math.isnan(options.min_score):
        raise InvalidInput("`min_score` must not be NaN.", reason="MIN_SCORE_INVALID", field="min_score")
    if options.filter is not None:
        check_filter(options.filter)


def answer_too_large() -> AnswerTooLarge:
    """Returns the error for a response whose contents exceed the limit."""
    return AnswerTooLarge(
        "The response exceeds the message size limit; ask for fewer matches or items, or for less of each.",
        reason="ANSWER_TOO_LARGE",
    )


def check_item(item: NewItem | NewMetadata, spec: CollectionSpec) -> None:
    """Checks that an item may be written to a collection.

    Raises:
        InvalidInput: a bad id, vector or metadata; `field` says which.
    """
    check_id(item.id)
    if isinstance(item, NewItem):
        check_vector(item.vector, spec)
    check_metadata(item.metadata, field="metadata")


def check_items(items: Sequence[NewItem | NewMetadata], spec: CollectionSpec) -> None:
    """Checks all items of a batch as `check_item` does; `field` starts with `items[n]`."""
    for number, item in enumerate(items):
        try:
            check_item(item, spec)
        except InvalidInput as error:
            error.under(f"items[{number}]")
            raise


def check_id(item_id: str, *, field: str = "id") -> None:
    """Checks the rules of an item's id; `field` is its path for the error.

    Raises:
        InvalidInput: no item can have it.
    """
    check_text(item_id, field=field, what=f"`{field}`", max_bytes=MAX_ID_BYTES, reason="ITEM_ID_INVALID")


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Checks the rules of a checkpoint.

    Raises:
        InvalidInput: a bad ingest id or batch number.
    """
    check_text(
        checkpoint.ingest_id,
        field="ingest_id",
        what="`ingest_id`",
        max_bytes=MAX_INGEST_ID_BYTES,
        reason="INGEST_ID_INVALID",
    )
    if not 1 <= checkpoint.batch < 2**63:
        raise InvalidInput(
            f"`batch` (={checkpoint.batch}) must be at least 1 and fit in 64 bits.",
            reason="BATCH_INVALID",
            field="batch",
        )


def _bad_vector(message: str) -> InvalidInput:
    return InvalidInput(message, reason="VECTOR_INVALID", field="vector")
