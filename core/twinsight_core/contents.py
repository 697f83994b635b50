"""What is on disk of items, as callers get it."""

from __future__ import annotations

from collections.abc import Sequence

from twinsight_core.items import Item, answer_too_large
from twinsight_core.metadata import decode_metadata
from twinsight_core.records import StoredItem, vector_of


def content_bytes(stored: StoredItem, *, metadata: bool, vector: bool) -> int:
    """Returns how many bytes an answer with an item's metadata, or its vector, holds of it."""
    return len(stored.metadata) * metadata + len(stored.vector) * vector


def items_of(
    stored: Sequence[StoredItem | None], *, include_vectors: bool, max_bytes: int | None = None
) -> list[Item | None]:
    """Returns items with their metadata; None stays None.

    Args:
        stored: as they were read.
        include_vectors: with their vectors, too.
        max_bytes: of their contents, those of an item counting as often as it is there; None: any number.

    Raises:
        AnswerTooLarge: they have more; nothing was decoded.
    """
    sizes = (content_bytes(one, metadata=True, vector=include_vectors) for one in stored if one is not None)
    if max_bytes is not None and sum(sizes) > max_bytes:
        raise answer_too_large()
    return [
        None
        if one is None
        else Item(one.id, vector_of(one) if include_vectors else None, decode_metadata(one.metadata))
        for one in stored
    ]
