"""Writes, reads (by id or by page) and deletes items of a collection. Streams of batches are in `ingest`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from twinsight.v1 import collection_service_pb2 as pb
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import AnswerTooLarge, InvalidInput, NotFound, TwinsightError
from twinsight_core.items import Checkpoint, Item, NewItem, NewMetadata, answer_too_large, check_id
from twinsight_server.access.quotas import Quotas
from twinsight_server.calls.call import Call
from twinsight_server.convert import answers, requests
from twinsight_server.inference.models import Models
from twinsight_server.inference.pipeline import Picture, Pipeline
from twinsight_server.services.inputs import check_count, check_digest, check_size, collection_vectors, read_each
from twinsight_server.services.page_tokens import beginning, token_for
from twinsight_server.status import status_of

DEFAULT_PAGE = 100
MAX_PAGE = 1000


class ItemWriter:
    """Writes and deletes items."""

    def __init__(self, catalog: Catalog, models: Models, pipeline: Pipeline, quotas: Quotas, *, max_items: int) -> None:
        self._catalog = catalog
        self._models = models
        self._quotas = quotas
        self._pipeline = pipeline
        self.max_items = max_items

    def collection(self, name: str, call: Call) -> Collection:
        """Returns a collection; if it does not exist, the error lists those that the caller may know of."""
        return self._catalog.get(name, visible=call.caller.may_know)

    def write(
        self,
        collection: Collection,
        messages: Sequence[pb.NewItem],
        digest: str,
        checkpoint: Checkpoint | None,
        call: Call,
    ) -> list[pb.UpsertResult]:
        """Embeds, checks and writes items; the valid ones in one atomic batch.

        Args:
            collection: where to write.
            messages: the items.
            digest: `vector_model_digest` of the request.
            checkpoint: stored with the items; None: none.
            call: the call that they belong to.

        Returns:
            For each item its id, which is on disk by then, or its error.
        """
        check_digest(digest, collection.spec.model_digest, of=f"collection `{collection.spec.id}`")
        self._quotas.check_room(collection, [message.id for message in messages if not message.keep_vector])
        inputs = read_each(messages, "items", lambda message: _input(message, collection))
        vectors = collection_vectors(
            collection.spec,
            inputs,
            lambda n: f"items[{n}].image",
            pipeline=self._pipeline,
            models=self._models,
            call=call,
        )
        items = [_new_item(collection, n, *pair) for n, pair in enumerate(zip(messages, vectors, strict=True))]
        good = {number: item for number, item in enumerate(items) if not isinstance(item, TwinsightError)}
        if checkpoint:
            _check_own_faults(items)
        call.check_alive()
        new = [item.id for item in good.values() if isinstance(item, NewItem)]
        with call.stage("write"), self._quotas.writing(collection, new, call.check_alive):
            if good or checkpoint:
                written = collection.upsert(list(good.values()), checkpoint=checkpoint, check_wanted=call.check_alive)
                call.effect.written = sum(written)
                for (number, item), is_written in zip(good.items(), written, strict=True):
                    if not is_written:
                        items[number] = item_not_found(collection, item.id, f"items[{number}].id")
        call.count(items)
        return [
            pb.UpsertResult(error=status_of(item)) if isinstance(item, TwinsightError) else pb.UpsertResult(id=item.id)
            for item in items
        ]

    def delete(self, request: pb.DeleteItemsRequest, call: Call) -> pb.DeleteItemsResponse:
        """Deletes items by id or by filter."""
        collection = self.collection(request.collection, call)

        def on_deleted(count: int) -> None:
            call.effect.deleted = call.touched = count

        if request.HasField("filter"):
            if request.ids:
                raise InvalidInput("`ids` and `filter` can't both be set.", reason="DELETION_AMBIGUOUS", field="filter")
            filter_ = requests.search_filter(request.filter)
            count = collection.delete_where(
                filter_, purge=request.purge, on_deleted=on_deleted, check_wanted=call.check_alive
            )
            call.effect.purged = request.purge
            call.outcomes["OK"] += count
            return pb.DeleteItemsResponse(deleted_count=count)
        check_count(len(request.ids), self.max_items, field="ids")
        deleted = collection.delete(
            request.ids, purge=request.purge, on_deleted=on_deleted, check_wanted=call.check_alive
        )
        call.effect.purged = request.purge
        outcomes = [
            one if gone else _missing(collection, number, one)
            for number, (one, gone) in enumerate(zip(request.ids, deleted, strict=True))
        ]
        call.count(outcomes)
        results = [
            pb.ItemResult(error=status_of(one))
            if isinstance(one, TwinsightError)
            else pb.ItemResult(item=pb.Item(id=one))
            for one in outcomes
        ]
        return pb.DeleteItemsResponse(results=results, deleted_count=sum(deleted))


class ItemReader:
    """Reads items."""

    def __init__(self, catalog: Catalog, *, max_items: int, max_bytes: int) -> None:
        self._catalog = catalog
        self._max_items = max_items
        self._max_bytes = max_bytes

    def get(self, request: pb.GetItemsRequest, call: Call) -> pb.GetItemsResponse:
        """Reads items by id."""
        collection = self._catalog.get(request.collection, visible=call.caller.may_know)
        check_count(len(request.ids), self._max_items, field="ids")
        items = collection.get(request.ids, include_vectors=request.include_vectors, max_bytes=self._max_bytes)
        found = [
            _missing(collection, number, one) if item is None else item
            for number, (one, item) in enumerate(zip(request.ids, items, strict=True))
        ]
        response = pb.GetItemsResponse()
        self._write(response, found)
        call.count(found)
        call.effect.returned, call.effect.vectors = len(found) - call.effect.failed, request.include_vectors
        return response

    def page(self, request: pb.ListItemsRequest, call: Call) -> pb.ListItemsResponse:
        """Reads a page, with fewer items than requested if these don't fit in one response.

        Raises:
            AnswerTooLarge: a single item does not fit.
        """
        collection = self._catalog.get(request.collection, visible=call.caller.may_know)
        if not 0 <= request.page_size <= MAX_PAGE:
            raise InvalidInput(
                f"`page_size` (={request.page_size}) must be between 0 and {MAX_PAGE}.",
                reason="PAGE_SIZE_INVALID",
                field="page_size",
            )
        limit = request.page_size or DEFAULT_PAGE
        while True:
            try:
                return self._page(request, collection, limit, call)
            except AnswerTooLarge:
                if limit == 1:
                    raise
                call.check_alive()
                limit //= 2

    def _page(
        self, request: pb.ListItemsRequest, collection: Collection, limit: int, call: Call
    ) -> pb.ListItemsResponse:
        items, after = collection.page(
            after=beginning(request, collection),
            limit=limit,
            filter=requests.search_filter(request.filter) if request.HasField("filter") else None,
            include_vectors=request.include_vectors,
            max_bytes=self._max_bytes,
        )
        response = pb.ListItemsResponse(next_page_token=token_for(request, collection, after))
        self._write(response, items)
        call.count(items)
        call.effect.returned, call.effect.vectors = len(items), request.include_vectors
        call.touched = len(items)
        return response

    def _write(
        self, response: pb.GetItemsResponse | pb.ListItemsResponse, found: Iterable[Item | TwinsightError]
    ) -> None:
        """Writes results into a response.

        Raises:
            AnswerTooLarge: they exceed the limit of a response; the results after that are not written.
        """
        size = 0
        for one in found:
            result = response.results.add()
            if isinstance(one, TwinsightError):
                result.error.CopyFrom(status_of(one))
            else:
                answers.write_item(result.item, one)
            size += result.ByteSize()
            if size > self._max_bytes:
                raise answer_too_large()
        check_size(response, self._max_bytes)  # including what surrounds the results


def _check_own_faults(items: Sequence[NewItem | NewMetadata | TwinsightError]) -> None:
    """Raises an error that is not the fault of its item: a client that resumes after the batch would lose the item."""
    for item in items:
        if isinstance(item, TwinsightError) and not isinstance(item, InvalidInput):
            raise item


def _missing(collection: Collection, number: int, one: str) -> TwinsightError:
    """Returns why no item has an id: it does not exist, or the id is invalid."""
    path = f"ids[{number}]"
    try:
        check_id(one, field=path)
    except InvalidInput as error:
        return error
    return item_not_found(collection, one, path)


def item_not_found(collection: Collection, item_id: str, path: str) -> NotFound:
    """Returns the error for an id that no item has; `path` is that of the field."""
    text = f"Item `{item_id}` does not exist in `{collection.spec.id}`."
    return NotFound(text, reason="ITEM_NOT_FOUND", field=path)


def _input(message: pb.NewItem, collection: Collection) -> Picture | np.ndarray | None:
    """Returns the source of an item's vector; None: the stored item keeps its own."""
    match message.WhichOneof("input"):
        case "image":
            return requests.picture(message.image, field="image")
        case "vector":
            return requests.vector(message.vector, collection.spec.dimension)
        case "keep_vector" if message.keep_vector:
            return None
        case _:
            raise InvalidInput("The item must have `image`, `vector` or `keep_vector` set.", reason="INPUT_MISSING")


def _new_item(
    collection: Collection, number: int, message: pb.NewItem, vector: np.ndarray | TwinsightError | None
) -> NewItem | NewMetadata | TwinsightError:
    """Returns the item to write, checked, or an error that names the item."""
    if isinstance(vector, TwinsightError):
        return vector
    try:
        metadata = requests.metadata(message.metadata)
        item = NewMetadata(message.id, metadata) if vector is None else NewItem(message.id, vector, metadata)
        collection.check_item(item)
    except InvalidInput as error:
        return error.under(f"items[{number}]")
    return item
