"""The calls to send: request messages, built once and kept as bytes, and parsers of their responses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from google.protobuf.message import Message

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight_client import operations
from twinsight_client.channel import ChannelOptions
from twinsight_client.errors import InvalidArgument
from twinsight_client.filters import Filter
from twinsight_client.operations import Operation
from twinsight_client.results import ItemError, ModelReference, Vector
from twinsight_client.status import item_error

MOST_BYTES = ChannelOptions().max_send_bytes
"""Size limit of one message."""
VECTOR_CALLS = 256
"""Different messages of random vectors; with only a few, searches would find their whole path in the caches."""
VECTOR_BYTES = 64 * 1024 * 1024
"""Size limit of all messages of random vectors together."""

T = TypeVar("T")
R = TypeVar("R", bound=Message)
A = TypeVar("A")


@dataclass(frozen=True)
class Reading:
    """The content of a response.

    Attributes:
        errors: errors of the failed items.
        model: the model that answered; empty if the response does not say.
    """

    errors: Sequence[ItemError] = ()
    model: ModelReference = field(default_factory=ModelReference)


@dataclass(frozen=True)
class Workload:
    """Calls of one kind.

    Attributes:
        name: name of the call: embed, search or compare.
        items: kind of its items: pictures, queries or pairs.
        batch: items in each call.
        what: human-readable description of what is sent.
        method: gRPC's path.
        requests: messages, sent in turn.
        read: parses the bytes of a response.
        timeout_s: deadline of each call.
    """

    name: str
    items: str
    batch: int
    what: str
    method: str
    requests: tuple[bytes, ...]
    read: Callable[[bytes], Reading]
    timeout_s: float


def embed_calls(
    pictures: Sequence[bytes], *, what: str, batch: int, model: str = "", timeout_s: float | None = None
) -> Workload:
    """Returns calls of InferenceService.Embed.

    Raises:
        InvalidArgument: the pictures of one call do not fit a message.
    """

    def read(data: bytes) -> Reading:
        response = inference_pb.EmbedResponse.FromString(data)
        return Reading(_errors(response.results), ModelReference(response.model.name, response.model.digest))

    sent = (operations.embed(one, model=model) for one in _batches(pictures, batch))
    return _workload("embed", "pictures", sent, read=read, what=what, batch=batch, timeout_s=timeout_s)


def compare_calls(
    pictures: Sequence[bytes], *, what: str, batch: int, model: str = "", timeout_s: float | None = None
) -> Workload:
    """Returns calls of InferenceService.Compare: each picture with the next, the last with the first.

    Raises:
        InvalidArgument: the pictures of one call do not fit a message.
    """

    def read(data: bytes) -> Reading:
        response = inference_pb.CompareResponse.FromString(data)
        return Reading(_errors(response.results), ModelReference(response.model.name, response.model.digest))

    pairs = list(zip(pictures, [*pictures[1:], pictures[0]], strict=True))
    _check_size([len(left) + len(right) for left, right in pairs], batch, "pairs")
    sent = (operations.compare(one, model=model, vector_model_digest="", target_fmr=None) for one in _cut(pairs, batch))
    return _workload("compare", "pairs", sent, read=read, what=what, batch=batch, timeout_s=timeout_s)


def search_calls(
    collection: str,
    queries: Sequence[Sequence[bytes | Vector]],
    *,
    what: str,
    top_k: int,
    where: Filter | None = None,
    timeout_s: float | None = None,
) -> Workload:
    """Returns calls of CollectionService.Search.

    Args:
        collection: its id.
        queries: the queries of each call, the same number in each; pictures or vectors.
        what: human-readable description of the queries.
        top_k: matches for each query.
        where: only items that match this filter.
        timeout_s: deadline of each call; None: the default of a search.
    """

    def read(data: bytes) -> Reading:
        return Reading(_errors(collections_pb.SearchResponse.FromString(data).results))

    sent = (
        operations.search(
            collection,
            one,
            top_k=top_k,
            where=where,
            min_score=None,
            exact=False,
            ef=0,
            include_metadata=True,
            include_vectors=False,
            exclude_self=False,
            vector_model_digest="",
        )
        for one in queries
    )
    return _workload("search", "queries", sent, read=read, what=what, batch=len(queries[0]), timeout_s=timeout_s)


def picture_queries(pictures: Sequence[bytes], *, batch: int) -> list[list[bytes]]:
    """Returns the queries of each call.

    Raises:
        InvalidArgument: the pictures of one call do not fit a message.
    """
    return _batches(pictures, batch)


def vector_queries(dimension: int, *, batch: int, seed: int = 0) -> list[list[Vector]]:
    """Returns the queries of each call: random directions of length 1, [dimension] float32.

    Raises:
        InvalidArgument: the vectors of one call do not fit a message.
    """
    _check_size([4 * dimension], batch, "vectors")
    count = max(1, min(VECTOR_CALLS, VECTOR_BYTES // (4 * dimension * batch)))
    vectors = np.random.default_rng(seed).standard_normal((count, batch, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return [list(call) for call in vectors]


def _batches(pictures: Sequence[bytes], batch: int) -> list[list[bytes]]:
    """Splits pictures into calls; the last call, or one larger than all of them, starts over at the first picture."""
    _check_size([len(one) for one in pictures], batch, "pictures")
    return _cut(pictures, batch)


def _cut(things: Sequence[T], batch: int) -> list[list[T]]:
    starts = range(0, len(things), batch)
    return [[things[place % len(things)] for place in range(start, start + batch)] for start in starts]


def _check_size(sizes: Sequence[int], batch: int, named: str) -> None:
    """Rejects calls that are too large for a message, before they are built.

    Raises:
        InvalidArgument: the `batch` things of a call, of `sizes` in bytes, do not fit a message.
    """
    most = max(sum(one) for one in _cut(sizes, batch))
    if most > MOST_BYTES:
        raise InvalidArgument(
            f"`batch` (={batch}) {named} ({most} bytes) must fit a message of {MOST_BYTES} bytes.",
            reason="CLIENT_CHECK",
        )


def _workload(
    name: str,
    items: str,
    sent: Iterable[Operation[R, A]],
    *,
    read: Callable[[bytes], Reading],
    what: str,
    batch: int,
    timeout_s: float | None,
) -> Workload:
    """Returns the workload of `sent`, at least one call; serialises each call before it builds the next."""
    method, deadline_s = "", 0.0
    requests: list[bytes] = []
    for one in sent:
        method, deadline_s = one.method, one.deadline_s(timeout_s)
        requests.append(one.request.SerializeToString())
    return Workload(name, items, batch, what, method, tuple(requests), read, deadline_s)


def _errors(
    results: Iterable[inference_pb.EmbedResult | inference_pb.CompareResult | collections_pb.SearchResult],
) -> list[ItemError]:
    return [item_error(place, one.error) for place, one in enumerate(results) if one.HasField("error")]
