"""What is on disk of items, as callers get it."""

from __future__ import annotations

from collections.abc import Sequence

from twinsight_core.items import Item
from twinsight_core.metadata import decode_metadata
from twinsight_core.records import StoredItem, vector_of


def content_bytes(stored: StoredItem, *, metadata: bool, vector: bool) -> int:
    """Returns how many bytes there are on disk of an item's metadata, and of its vector."""
    return len(stored.metadata) * metadata + len(stored.vector) * vector


def items_of(stored: Sequence[StoredItem | None], *, include_vectors: bool) -> list[Item | None]:
    """Returns items with their metadata; None stays None. An item that is there several times is decoded once.

    Args:
        stored: as they were read.
        include_vectors: with their vectors, too.
    """
    items = {one.seq: one for one in stored if one is not None}
    decoded = {seq: _item(one, include_vectors) for seq, one in items.items()}
    return [None if one is None else decoded[one.seq] for one in stored]


def _item(stored: StoredItem, include_vector: bool) -> Item:
    return Item(stored.id, vector_of(stored) if include_vector else None, decode_metadata(stored.metadata))
