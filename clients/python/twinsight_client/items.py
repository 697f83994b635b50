"""Items to write, and items to look for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight_client.images import Content, content_message, size_bytes
from twinsight_client.metadata import metadata_messages, metadata_size_bytes
from twinsight_client.results import MetadataValue


@dataclass(frozen=True)
class ItemId:
    """Stands for a stored item where a search could also take a picture or a vector."""

    id: str


@dataclass(frozen=True, eq=False)
class NewItem:
    """An item to write.

    Attributes:
        id: 1 to 256 bytes of UTF-8 without control characters; an item of that id is replaced.
        content: a picture, embedded with the collection's model and not kept; or a vector.
        metadata: fields to filter by.
    """

    id: str
    content: Content
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


def item_size_bytes(item: NewItem) -> int:
    """Returns about how many bytes `item` takes in a message, without making one or reading any file.

    Raises:
        OSError: the file is not there.
    """
    return size_bytes(item.content) + len(item.id.encode()) + metadata_size_bytes(item.metadata)


def item_message(item: NewItem) -> collections_pb.NewItem:
    """Returns the message of one item; reads the file where its content is a path.

    Raises:
        InvalidArgument: pixels, vector or metadata of a shape or type that the contract can't carry.
        OSError: the file can't be read.
        TypeError: neither a picture nor a vector.
    """
    content = content_message(item.content)
    metadata = metadata_messages(item.metadata)
    if isinstance(content, bytes):
        return collections_pb.NewItem(id=item.id, vector=content, metadata=metadata)
    return collections_pb.NewItem(id=item.id, image=content, metadata=metadata)
