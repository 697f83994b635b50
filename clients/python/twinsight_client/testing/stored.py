"""A collection in memory, with exact search over a dictionary."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from google.protobuf import timestamp_pb2

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import types_pb2
from twinsight_client.errors import FieldViolation, InvalidArgument, NotFound, TwinsightClientError
from twinsight_client.results import Vector
from twinsight_client.testing import limits
from twinsight_client.testing.conditions import holds
from twinsight_client.testing.pictures import refused
from twinsight_client.testing.statuses import status_of


@dataclass(frozen=True, eq=False)
class _Stored:
    number: int
    vector: Vector
    metadata: dict[str, types_pb2.Value]


class MemoryCollection:
    """Items and how they are searched.

    Attributes:
        id: its id.
        model: name of the model that it is bound to; empty: none.
        digest: that model's digest.
        dimension: components of each vector.
        last_batches: last batch written of each named bulk write.
    """

    def __init__(
        self, name: str, *, model: str, digest: str, dimension: int, metric: collections_pb.Metric.ValueType
    ) -> None:
        self.id = name
        self.model = model
        self.digest = digest
        self.dimension = dimension
        self.last_batches: dict[str, int] = {}
        self._metric = metric
        self._items: dict[str, _Stored] = {}
        self._numbers = itertools.count(1)
        self._created = timestamp_pb2.Timestamp()
        self._created.GetCurrentTime()

    def described(self) -> collections_pb.Collection:
        """Returns the message that describes the collection."""
        return collections_pb.Collection(
            id=self.id,
            model=self.model,
            dimension=self.dimension,
            metric=self._metric,
            model_digest=self.digest,
            item_count=len(self._items),
            indexed_count=len(self._items),
            state=collections_pb.COLLECTION_STATE_READY,
            create_time=self._created,
        )

    def checked(self, vector: Vector, path: str) -> Vector:
        """Returns `vector` if the collection accepts it.

        Raises:
            InvalidArgument: it has another dimension, is not finite, all zeros (cosine) or too long (other metrics).
        """
        if vector.shape != (self.dimension,) or not np.isfinite(vector).all():
            raise refused("VECTOR_INVALID", path, f"`vector` must have {self.dimension} finite components.")
        if self._metric == collections_pb.METRIC_COSINE and not vector.any():
            raise refused("VECTOR_INVALID", path, "`vector` is all zero, which has no direction; the metric is cosine.")
        if self._metric != collections_pb.METRIC_COSINE and np.linalg.norm(vector.astype(float)) > limits.MAX_LENGTH:
            raise refused("VECTOR_INVALID", path, f"`vector` must be at most {limits.MAX_LENGTH:.0e} long.")
        return vector

    def put(self, item: collections_pb.NewItem, vector: Vector, path: str) -> None:
        """Adds an item, or replaces the one with its id.

        Raises:
            InvalidArgument: no item can have that id or metadata.
        """
        limits.check_item_id(item.id, field=f"{path}.id")
        limits.check_metadata(item.metadata, field=f"{path}.metadata")
        self._items.pop(item.id, None)
        self._items[item.id] = _Stored(next(self._numbers), vector, dict(item.metadata))

    def vector_of(self, item_id: str, path: str) -> Vector:
        """Returns an item's vector.

        Args:
            item_id: the item's.
            path: of the id in the request, for errors.

        Raises:
            NotFound: there is no such item.
            InvalidArgument: no item can have that id.
        """
        if item_id not in self._items:
            raise self._missing(item_id, path)
        return self._items[item_id].vector

    def get(self, request: collections_pb.GetItemsRequest) -> collections_pb.GetItemsResponse:
        """Answers a GetItems.

        Raises:
            InvalidArgument: there are no ids, or too many.
        """
        limits.check_count(request.ids, limits.MAX_ITEMS, field="ids")
        response = collections_pb.GetItemsResponse()
        for place, item_id in enumerate(request.ids):
            result = response.results.add()
            if item_id in self._items:
                result.item.CopyFrom(self._message(item_id, include_vectors=request.include_vectors))
            else:
                result.error.CopyFrom(status_of(self._missing(item_id, f"ids[{place}]")))
        return response

    def list(self, request: collections_pb.ListItemsRequest) -> collections_pb.ListItemsResponse:
        """Answers a ListItems; a page's token is the id of its last item with a mark of collection and filter.

        Raises:
            InvalidArgument: a bad size, filter or token.
        """
        limits.check_page(request)
        mark = f"{self._created.ToNanoseconds():x}-{request.filter.SerializeToString(deterministic=True).hex()}-"
        after, size = request.page_token.removeprefix(mark), request.page_size or 100
        if request.page_token and not request.page_token.startswith(mark):
            message = (
                "`page_token` must be the `next_page_token` of the previous page, with the same `filter`; start a "
                "re-created collection from its first page."
            )
            raise refused("PAGE_TOKEN_INVALID", "page_token", message)
        left = [one for one in sorted(self._items) if one > after and self._meets(one, request.filter)]
        response = collections_pb.ListItemsResponse()
        for item_id in left[:size]:
            response.results.add().item.CopyFrom(self._message(item_id, include_vectors=request.include_vectors))
        if len(left) > size:
            response.next_page_token = mark + left[size - 1]
        return response

    def delete(self, request: collections_pb.DeleteItemsRequest) -> collections_pb.DeleteItemsResponse:
        """Answers a DeleteItems.

        Raises:
            InvalidArgument: there are neither ids nor a filter, both, or one of them is invalid.
        """
        response = collections_pb.DeleteItemsResponse()
        if request.HasField("filter"):
            if request.ids:
                raise refused("DELETION_AMBIGUOUS", "filter", "`ids` and `filter` can't both be set.")
            limits.check_filter(request.filter)
            going = [one for one in self._items if self._meets(one, request.filter)]
            response.deleted_count = len(going)
            for item_id in going:
                del self._items[item_id]
            return response
        limits.check_count(request.ids, limits.MAX_ITEMS, field="ids")
        for place, item_id in enumerate(request.ids):
            result = response.results.add()
            if self._items.pop(item_id, None) is None:
                result.error.CopyFrom(status_of(self._missing(item_id, f"ids[{place}]")))
            else:
                result.item.id = item_id
                response.deleted_count += 1
        return response

    def nearest(
        self, query: Vector, request: collections_pb.SearchRequest, *, without: str = ""
    ) -> collections_pb.Matches:
        """Returns the items nearest to `query`, with the request's options; always exact, whatever `exact` says."""
        scored = [
            (float(np.float32(self._score(query, stored.vector))), item_id)  # float32 on the wire, like `min_score`
            for item_id, stored in self._items.items()
            if item_id != without and self._meets(item_id, request.filter)
        ]
        # A stable sort keeps equal scores in the order of writing, as the contract requires.
        scored.sort(key=lambda one: -one[0])
        matches = collections_pb.Matches()
        for score, item_id in scored[: request.top_k]:
            if request.HasField("min_score") and score < request.min_score:
                break
            stored = self._message(item_id, include_vectors=request.include_vectors)
            cosine = self._metric == collections_pb.METRIC_COSINE
            matches.matches.add(
                id=item_id,
                score=score,
                distance=1 - score if cosine else -score,
                metadata=stored.metadata if request.include_metadata else None,
                vector=stored.vector,
                probability=probability(score) if cosine and self.model else None,
            )
        return matches

    def _score(self, left: Vector, right: Vector) -> float:
        if self._metric == collections_pb.METRIC_EUCLIDEAN:
            return -float(np.linalg.norm(left - right))
        # In float64: the product of two short vectors' lengths would be 0 in float32.
        one, other = left.astype(np.float64), right.astype(np.float64)
        product = float(one @ other)
        if self._metric == collections_pb.METRIC_DOT:
            return product
        return product / float(np.linalg.norm(one) * np.linalg.norm(other))

    def _meets(self, item_id: str, condition: types_pb2.Filter) -> bool:
        return holds(condition, self._items[item_id].metadata)

    def _message(self, item_id: str, *, include_vectors: bool) -> collections_pb.Item:
        stored = self._items[item_id]
        vector = stored.vector.astype("<f4").tobytes() if include_vectors else b""
        return collections_pb.Item(id=item_id, vector=vector, metadata=stored.metadata)

    def _missing(self, item_id: str, path: str) -> TwinsightClientError:
        """Returns why no item has an id: it does not exist, or the id is invalid."""
        try:
            limits.check_item_id(item_id, field=path)
        except InvalidArgument as error:
            return error
        message = f"Item `{item_id}` does not exist in `{self.id}`."
        return NotFound(message, reason="ITEM_NOT_FOUND", violations=[FieldViolation(path, message)])


def probability(cosine: float) -> float:
    """Returns the fake models' probability for a cosine similarity: from 0 at -1 to 1 at 1."""
    return min(1.0, max(0.0, (cosine + 1) / 2))
