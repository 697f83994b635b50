"""CollectionService: manages and searches collections. `items` and `ingest` read and write items."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import grpc
import numpy as np

from twinsight.v1 import collection_service_pb2 as pb
from twinsight.v1 import collection_service_pb2_grpc as collections_grpc
from twinsight_core.calibration import Calibration
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import InvalidInput, TwinsightError
from twinsight_core.index.base import Metric
from twinsight_core.items import MAX_EF, CollectionSpec, Match, SearchOptions, are_fit, check_id, check_options
from twinsight_server.access.methods import VECTORS
from twinsight_server.access.quotas import Quotas
from twinsight_server.calls.call import Call, drop_tracebacks
from twinsight_server.calls.gate import Gate
from twinsight_server.config import ServerConfig
from twinsight_server.convert import answers, requests
from twinsight_server.inference.models import Models
from twinsight_server.inference.pipeline import Picture, Pipeline
from twinsight_server.services.ingest import IngestSession
from twinsight_server.services.inputs import check_count, check_digest, check_size, collection_vectors, read_each
from twinsight_server.services.items import ItemReader, ItemWriter, item_not_found
from twinsight_server.status import status_of


class CollectionService(collections_grpc.CollectionServiceServicer):
    """Stores items and finds nearest neighbours; see collection_service.proto."""

    def __init__(self, gate: Gate, catalog: Catalog, models: Models, pipeline: Pipeline, config: ServerConfig) -> None:
        self._gate = gate
        self._catalog = catalog
        self._models = models
        self._pipeline = pipeline
        self._config = config
        self._quotas = Quotas(
            catalog,
            collections=config.max_collections,
            collections_each=config.max_collections_per_key,
            items=config.max_items_per_collection,
        )
        self._writer = ItemWriter(catalog, models, pipeline, self._quotas, max_items=config.max_items)
        self._reader = ItemReader(catalog, max_items=config.max_items, max_bytes=config.max_message_bytes)

    def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: grpc.ServicerContext
    ) -> pb.CreateCollectionResponse:
        """Creates an empty collection."""
        with self._gate.call(context, "CreateCollection", collection=request.collection.id) as call:
            try:
                spec = self._spec(request.collection)
                with self._quotas.creating(spec.id, call.caller):
                    collection = self._catalog.create(spec)
            except TwinsightError as error:
                raise error.under("collection") from None
            return pb.CreateCollectionResponse(collection=_description(collection))

    def GetCollection(
        self, request: pb.GetCollectionRequest, context: grpc.ServicerContext
    ) -> pb.GetCollectionResponse:
        """Describes one collection."""
        with self._gate.call(context, "GetCollection", collection=request.collection) as call:
            collection = self._catalog.get(request.collection, visible=call.caller.may_know)
            collection.check_usable()
            return pb.GetCollectionResponse(collection=_description(collection))

    def ListCollections(
        self, request: pb.ListCollectionsRequest, context: grpc.ServicerContext
    ) -> pb.ListCollectionsResponse:
        """Describes all collections that the caller may search; one that can't be opened by its id, as damaged."""
        del request
        with self._gate.call(context, "ListCollections") as call:
            return pb.ListCollectionsResponse(
                collections=[
                    _description(one)
                    if isinstance(one, Collection)
                    else pb.Collection(id=name, state=pb.COLLECTION_STATE_DAMAGED)
                    for name, one in self._catalog.list()
                    if call.caller.may_know(name)
                ]
            )

    def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: grpc.ServicerContext
    ) -> pb.DeleteCollectionResponse:
        """Deletes a collection."""
        with self._gate.call(context, "DeleteCollection", collection=request.collection) as call:
            self._catalog.delete(request.collection, visible=call.caller.may_know)
            return pb.DeleteCollectionResponse()

    def UpsertItems(self, request: pb.UpsertItemsRequest, context: grpc.ServicerContext) -> pb.UpsertItemsResponse:
        """Writes items."""
        with self._gate.call(context, "UpsertItems", collection=request.collection, items=len(request.items)) as call:
            check_count(len(request.items), self._config.max_items, field="items")
            collection = self._writer.collection(request.collection, call)
            results = self._writer.write(collection, request.items, request.vector_model_digest, None, call)
            return pb.UpsertItemsResponse(results=results)

    def IngestItems(
        self, request_iterator: Iterator[pb.IngestItemsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.IngestItemsResponse]:
        """Writes items batch by batch."""
        with self._gate.stream(context, "IngestItems") as stream:
            ingest = IngestSession(self._writer)
            for request in request_iterator:
                ingest.begin(request)
                try:
                    with self._gate.message(
                        stream, "IngestItems", collection=ingest.collection, items=len(request.items)
                    ) as call:
                        response = ingest.write(request, call)
                except TwinsightError as error:
                    drop_tracebacks(error)
                    self._gate.check_stream(stream)
                    response = ingest.refuse(request, error, stream)
                yield response
                self._gate.answered(stream)

    def GetItems(self, request: pb.GetItemsRequest, context: grpc.ServicerContext) -> pb.GetItemsResponse:
        """Reads items by id."""
        with self._gate.call(context, "GetItems", collection=request.collection, items=len(request.ids)) as call:
            return self._reader.get(request, call)

    def ListItems(self, request: pb.ListItemsRequest, context: grpc.ServicerContext) -> pb.ListItemsResponse:
        """Reads a page of items."""
        with self._gate.call(context, "ListItems", collection=request.collection, items=1) as call:
            return self._reader.page(request, call)

    def DeleteItems(self, request: pb.DeleteItemsRequest, context: grpc.ServicerContext) -> pb.DeleteItemsResponse:
        """Deletes items."""
        items = len(request.ids) or 1  # a filter
        with self._gate.call(context, "DeleteItems", collection=request.collection, items=items) as call:
            return self._writer.delete(request, call)

    def Search(self, request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        """Finds the nearest items; all queries are searched in one call of the index."""
        with self._gate.call(context, "Search", collection=request.collection, items=len(request.queries)) as call:
            collection = self._catalog.get(request.collection, visible=call.caller.may_know)
            if request.include_vectors:
                self._gate.require(call, "Search", request.collection, VECTORS)
            check_count(len(request.queries), self._config.max_images, field="queries")
            check_digest(
                request.vector_model_digest, collection.spec.model_digest, of=f"collection `{collection.spec.id}`"
            )
            options = self._options(request)
            vectors = self._query_vectors(collection, request.queries, call)
            call.check_alive()
            with call.stage("search"):
                matches = self._search(collection, vectors, options, call)
            if request.exclude_self:
                matches = _remove_self_matches(matches, request)
            call.count(matches)
            call.effect.returned = sum(len(one) for one in matches if not isinstance(one, TwinsightError))
            if request.include_vectors:
                call.effect.vectors, call.touched = True, call.effect.returned
            response = pb.SearchResponse()
            calibration = self._calibration(collection.spec)
            for one in matches:
                _write_result(response.results.add(), one, calibration)
            return check_size(response, self._config.max_message_bytes)

    def _spec(self, message: pb.Collection) -> CollectionSpec:
        """Returns the spec of a new collection, checked except for the id, which the catalogue checks."""
        metric = requests.metric(message.metric)
        if not message.model:
            return CollectionSpec(id=message.id, dimension=message.dimension, metric=metric, created_at=time.time())
        model = self._models.get_for("embedding", message.model)
        dimension = model.package.card.dimension
        if message.dimension not in {0, dimension}:
            raise InvalidInput(
                f"`dimension` (={message.dimension}) must be 0 or {dimension}, the dimension of model `{model.name}`.",
                reason="DIMENSION_INVALID",
                field="dimension",
            )
        return CollectionSpec(
            id=message.id,
            dimension=dimension,
            metric=metric,
            model_name=model.name,
            model_digest=model.digest,
            created_at=time.time(),
        )

    def _options(self, request: pb.SearchRequest) -> SearchOptions:
        most = self._config.max_top_k
        if not 1 <= request.top_k <= most:
            raise InvalidInput(
                f"`top_k` (={request.top_k}) must be between 1 and {most}.", reason="TOP_K_INVALID", field="top_k"
            )
        options = SearchOptions(
            top_k=request.top_k,
            filter=requests.search_filter(request.filter) if request.HasField("filter") else None,
            min_score=request.min_score if request.HasField("min_score") else None,
            exact=request.exact,
            ef=request.ef,
            include_metadata=request.include_metadata,
            include_vectors=request.include_vectors,
            max_content_bytes=self._config.max_message_bytes,
        )
        check_options(options)
        # One more, since `exclude_self` removes the item itself.
        more = options.top_k + request.exclude_self
        ef = max(options.ef, more) if options.ef else 0
        return replace(options, top_k=more, ef=ef if ef <= MAX_EF else 0)

    def _query_vectors(
        self, collection: Collection, queries: Sequence[pb.Query], call: Call
    ) -> np.ndarray | list[np.ndarray | TwinsightError]:
        """Returns the queries' vectors: `[n, dimension] float32` if all are valid, otherwise a vector or error each."""
        vectors = requests.vectors([query.vector for query in queries], collection.spec.dimension)
        if vectors is not None and are_fit(vectors, collection.spec):
            return vectors
        return collection_vectors(
            collection.spec,
            read_each(queries, "queries", lambda query: _query(collection, query)),
            lambda n: f"queries[{n}].image",
            pipeline=self._pipeline,
            models=self._models,
            call=call,
        )

    def _search(
        self,
        collection: Collection,
        vectors: np.ndarray | list[np.ndarray | TwinsightError],
        options: SearchOptions,
        call: Call,
    ) -> Sequence[list[Match] | TwinsightError]:
        if isinstance(vectors, np.ndarray):
            return collection.search(vectors, options, check_wanted=call.check_alive)
        good = [one for one in vectors if isinstance(one, np.ndarray)]
        found = iter(collection.search(np.stack(good), options, check_wanted=call.check_alive) if good else ())
        return [next(found) if isinstance(one, np.ndarray) else one for one in vectors]

    def _calibration(self, spec: CollectionSpec) -> Calibration | None:
        model = self._models.with_digest(spec.model_digest) if spec.metric is Metric.COSINE else None
        return model.package.card.calibration if model else None


def _write_result(
    message: pb.SearchResult, matches: list[Match] | TwinsightError, calibration: Calibration | None
) -> None:
    if isinstance(matches, TwinsightError):
        message.error.CopyFrom(status_of(matches))
        return
    probabilities: Sequence[float | None] = [None] * len(matches)
    if calibration is not None:
        probabilities = calibration.probability(np.array([match.score for match in matches])).tolist()
    answers.write_matches(message, matches, probabilities)


def _remove_self_matches(
    matches: Sequence[list[Match] | TwinsightError], request: pb.SearchRequest
) -> list[list[Match] | TwinsightError]:
    """Removes from each query's matches the item that it names, and any matches beyond `top_k`."""
    return [
        found
        if isinstance(found, TwinsightError)
        else [one for one in found if one.id != query.item_id][: request.top_k]
        for query, found in zip(request.queries, matches, strict=True)
    ]


def _query(collection: Collection, query: pb.Query) -> Picture | np.ndarray:
    match query.WhichOneof("input"):
        case "image":
            return requests.picture(query.image, field="image")
        case "vector":
            vector = requests.vector(query.vector, collection.spec.dimension)
            collection.check_vector(vector)
            return vector
        case "item_id":
            check_id(query.item_id, field="item_id")
            (item,) = collection.get([query.item_id], include_vectors=True)
            if item is None or item.vector is None:
                raise item_not_found(collection, query.item_id, "item_id")
            return item.vector
        case _:
            raise InvalidInput("The query must have `image`, `vector` or `item_id` set.", reason="INPUT_MISSING")


def _description(collection: Collection) -> pb.Collection:
    return answers.collection_message(collection.spec, collection.status())
