"""Exports a collection from a server to a file, and imports a file into a server.

Export: pages are read and written as they arrive, to a file that appears when it is complete.

Import:

1. The file is read and checked, so that nothing is written from a damaged or truncated one.
2. A missing collection is created like the one in the file; an existing one that differs is rejected.
3. The server is asked, some hundred ids at a time, which items it has exactly as in the file; those are done. That is
   the only state: an interrupted import is simply run again, and a later one restores what was changed or deleted.
4. The rest is written in the file's order, with the digest of the model that made the vectors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from twinsight_client.cli.batches import ask_in_parts, cut
from twinsight_client.cli.collection_files import CollectionFile, Header, header_of, new_item, write_items
from twinsight_client.cli.indexing import Skipped
from twinsight_client.cli.whole_files import whole_file
from twinsight_client.client import Client
from twinsight_client.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from twinsight_client.items import item_message, item_size_bytes
from twinsight_client.model_cards import ModelTask
from twinsight_client.results import CollectionInfo, Item, ItemError
from twinsight_client.status import is_too_large

CHUNK = 400
"""Items per call: with the largest possible vectors and metadata, half the limit of a response."""
ITEM_TOO_LARGE = "ITEM_TOO_LARGE"


@dataclass(frozen=True)
class ExportReport:
    """Results of an export.

    Attributes:
        collection: the collection's id.
        file: path of the file.
        items: items in the file.
        item_count: items in the collection afterwards; a different number means that it was written to meanwhile.
        seconds: how long it took.
    """

    collection: str
    file: str
    items: int
    item_count: int
    seconds: float


@dataclass
class ImportReport:
    """Results of an import.

    Attributes:
        collection: the collection's id.
        file: path of the file.
        created: whether the collection was created.
        items: items in the file.
        unchanged: of these, those that the server already had in the same state.
        written: of these, those written now.
        skipped: of these, those that the server rejected.
        seconds: how long it took.
        finished: whether the import completed.
    """

    collection: str
    file: str
    created: bool = False
    items: int = 0
    unchanged: int = 0
    written: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False


def export_collection(
    client: Client, info: CollectionInfo, out: Path, *, advance: Callable[[int], None] = lambda _count: None
) -> ExportReport:
    """Writes a collection to a file, which appears when it is complete.

    Args:
        client: client of the server.
        info: the collection.
        out: the file; an existing one is replaced.
        advance: called with the number of further items that are written.

    Raises:
        FailedPrecondition: the collection was deleted and re-created meanwhile; nothing is written.
        TwinsightClientError: the server rejected a call or can't be reached.
        OSError: the file can't be written.
    """

    def items() -> Iterator[Item]:
        try:
            for page in client.list_items(info.id, page_size=CHUNK, include_vectors=True):
                yield from page.values()
                advance(len(page))
        except InvalidArgument as error:
            if error.reason != "PAGE_TOKEN_INVALID":
                raise
            raise _replaced_error(info, "nothing was written. Export it again") from error

    started = time.monotonic()
    with whole_file(out) as file:
        count = write_items(file, header_of(info), items())
        now = client.get_collection(info.id)
        if not _is_same(now, info):
            raise _replaced_error(info, "nothing was written. Export it again")
    return ExportReport(info.id, str(out), count, now.item_count, time.monotonic() - started)


def _is_same(now: CollectionInfo, before: CollectionInfo) -> bool:
    return (header_of(now), now.create_time) == (header_of(before), before.create_time)


def _replaced_error(info: CollectionInfo, therefore: str) -> FailedPrecondition:
    message = f"Collection `{info.id}` was deleted and re-created meanwhile; {therefore}."
    return FailedPrecondition(message, reason="COLLECTION_REPLACED")


class Importer:
    """Writes a collection's file to a server.

    Args:
        client: client of the server.
        file: the checked file.
        collection: id of the collection; empty: that in the file.
        name: name of the file.
        advance: called with the number of further items that are done.

    Attributes:
        report: what was done so far; complete even after an exception.
    """

    def __init__(
        self,
        client: Client,
        file: CollectionFile,
        *,
        collection: str,
        name: str,
        advance: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._client = client
        self._file = file
        self._advance = advance
        self._is_empty = False
        self._info: CollectionInfo | None = None
        header = file.header
        self.report = ImportReport(collection or header.collection, name, items=header.item_count)

    def run(self) -> None:
        """Writes the items that the collection does not have yet; call `prepare` first.

        Raises:
            FailedPrecondition: the collection was deleted and re-created meanwhile.
            TwinsightClientError: the server rejected a call or can't be reached; what was written is on disk.
        """
        started = time.monotonic()
        try:
            for batch in cut(self._file.items(), size_of=lambda one: item_size_bytes(new_item(one)), most=CHUNK):
                left = batch if self._is_empty else self._changed(batch)
                self.report.unchanged += len(batch) - len(left)
                self._write(left)
                self._advance(len(batch))
            if self._info is not None and not _is_same(self._client.get_collection(self._info.id), self._info):
                raise _replaced_error(self._info, "what was written before is not in it. Import the file again")
            self.report.finished = True
        finally:
            self.report.seconds = time.monotonic() - started

    def prepare(self) -> None:
        """Creates the collection if it is missing.

        Raises:
            FailedPrecondition: the collection differs from the one in the file, or its model is not served.
            TwinsightClientError: the server rejected a call or can't be reached.
        """
        name, header = self.report.collection, self._file.header
        try:
            info = self._client.get_collection(name)
        except NotFound:
            try:
                info = self._create(name, header)
                self.report.created = True
            except AlreadyExists:  # created concurrently
                info = self._client.get_collection(name)
        wanted = (header.dimension, header.metric, header.model_digest)
        if (info.dimension, info.metric, info.model_digest) != wanted:
            there = _describe(info.dimension, info.metric, info.model_digest)
            raise FailedPrecondition(
                f"Collection `{name}` has {there}; the file has {_describe(*wanted)}. "
                "Choose another with --collection.",
                reason="COLLECTION_MISMATCH",
            )
        self._is_empty = info.item_count == 0
        self._info = info

    def _create(self, name: str, header: Header) -> CollectionInfo:
        if not header.model_digest:
            return self._client.create_collection(name, dimension=header.dimension, metric=header.metric)
        served = [
            card.name
            for card in self._client.list_models()
            if card.task is ModelTask.EMBEDDING and card.digest == header.model_digest
        ]
        if not served:
            raise FailedPrecondition(
                f"The model of the vectors is not served here: `{header.model_digest}`, called `{header.model}` when "
                "exported. Serve it, under any name.",
                reason="MODEL_NOT_LOADED",
            )
        model = header.model if header.model in served else served[0]
        return self._client.create_collection(name, model=model, metric=header.metric)

    def _changed(self, batch: Sequence[Item]) -> list[Item]:
        """Returns the items that the server does not have in the same state."""
        try:
            ids = [one.id for one in batch]
            stored = self._client.get_items(self.report.collection, ids, include_vectors=True)
        except ResourceExhausted as error:
            if error.reason != "ANSWER_TOO_LARGE" and not is_too_large(error):
                raise
            return list(batch)  # writing them takes no more than asking
        return [
            new
            for new, old in zip(batch, stored, strict=True)
            if isinstance(old, ItemError) or new.id in self._file.repeated or not _same(new, old)
        ]

    def _write(self, items: Sequence[Item]) -> None:
        upsert = partial(
            self._client.upsert, self.report.collection, vector_model_digest=self._file.header.model_digest
        )
        for part, answers in ask_in_parts([new_item(one) for one in items], upsert):
            if isinstance(answers, ResourceExhausted):
                self.report.skipped.append(Skipped(part[0].id, ITEM_TOO_LARGE, answers.message))
                continue
            for item, answer in zip(part, answers, strict=True):
                if isinstance(answer, ItemError):
                    self.report.skipped.append(Skipped(item.id, answer.reason or answer.code, answer.message))
                else:
                    self.report.written += 1


def _same(left: Item, right: Item) -> bool:
    """Whether two items are equal, down to the bits of their vectors and the kinds of their values."""
    return item_message(new_item(left)) == item_message(new_item(right))


def _describe(dimension: int, metric: str, digest: str) -> str:
    return f"dimension {dimension}, metric {metric} and {f'model `{digest}`' if digest else 'no model'}"
