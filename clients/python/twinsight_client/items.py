"""Items to write, and items to search by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight_client.digests import vector_digest
from twinsight_client.errors import FieldViolation, InvalidArgument
from twinsight_client.images import Content, content_message, size_bytes
from twinsight_client.metadata import metadata_messages, metadata_size_bytes
from twinsight_client.results import MetadataValue
from twinsight_client.unicode_text import check_text


@dataclass(frozen=True)
class ItemId:
    """A stored item to search by, in place of a picture or a vector."""

    id: str


class KeepVector(Enum):
    """The type of `KEEP_VECTOR`."""

    KEEP_VECTOR = "keep_vector"


KEEP_VECTOR = KeepVector.KEEP_VECTOR
"""Content of an item of which only the metadata is written: it keeps its vector. A missing item fails alone."""


@dataclass(frozen=True, eq=False)
class NewItem:
    """An item to write.

    Attributes:
        id: 1 to 256 bytes of UTF-8 without control characters; an existing item of that id is replaced.
        content: a picture, which is embedded with the collection's model and not stored; a vector or an `Embedding`; or
            `KEEP_VECTOR`.
        metadata: fields to filter by; they replace those of an existing item.
    """

    id: str
    content: Content | KeepVector
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


def item_size_bytes(item: NewItem) -> int:
    """Returns about how many bytes `item` takes in a message, without building one or reading any file.

    Raises:
        OSError: the file does not exist.
        TypeError: an id that is not a str, or as `size_bytes`.
    """
    _check_type(item.id)
    content = 0 if isinstance(item.content, KeepVector) else size_bytes(item.content)
    return content + len(item.id.encode(errors="replace")) + metadata_size_bytes(item.metadata)


def item_message(item: NewItem) -> collections_pb.NewItem:
    """Returns the message of one item; reads the file if its content is a path.

    Raises:
        NotUnicode: its id, or a text in its metadata; names the item.
        InvalidArgument: pixels, vector or metadata of a shape or type that no message can hold; names the item.
        OSError: the file can't be read.
        TypeError: neither a picture nor a vector, or an id that is not a str.
    """
    _check_type(item.id)
    check_text(item.id, field="id")
    try:
        return _message(item)
    except InvalidArgument as error:
        message = f"Item `{item.id}`: {error.message}"
        violations = [FieldViolation(one.field, message) for one in error.violations]
        raise type(error)(message, reason=error.reason, violations=violations) from error


def _check_type(item_id: object) -> None:
    if not isinstance(item_id, str):
        raise TypeError(f"An item's id must be a str, not {type(item_id).__name__}: {item_id!r}.")


def items_digest(items: Iterable[NewItem], *, given: str) -> str:
    """Returns the `vector_model_digest` to send with items: the caller's, else that of their embeddings.

    Raises:
        InvalidArgument: an item's embedding is of another model.
    """
    contents = ((f"items[{place}].vector", item.content) for place, item in enumerate(items))
    return vector_digest(contents, given=given)


def _message(item: NewItem) -> collections_pb.NewItem:
    metadata = metadata_messages(item.metadata)
    if isinstance(item.content, KeepVector):
        return collections_pb.NewItem(id=item.id, keep_vector=True, metadata=metadata)
    content = content_message(item.content)
    if isinstance(content, bytes):
        return collections_pb.NewItem(id=item.id, vector=content, metadata=metadata)
    return collections_pb.NewItem(id=item.id, image=content, metadata=metadata)
