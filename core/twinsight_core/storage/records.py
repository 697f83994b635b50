"""The values that a collection's store takes and returns: items, records of graphs' files, and one write's changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class StoredItem(NamedTuple):
    """An item as the store takes it; `vector` is little-endian float32, `metadata` is JSON."""

    seq: int
    id: str
    vector: bytes
    metadata: bytes


class SnapshotRecord(NamedTuple):
    """The record of a graph's file.

    Attributes:
        file: its name in the collection's folder.
        size: its bytes.
        sha256: digest of the file followed by `outside`, hexadecimal.
        last_seq: the graph holds all that it will of the items up to this number, and no later ones.
        library: the library and version that wrote it, and what the vectors in it were multiplied by, if anything.
        links: `GraphParameters.links`.
        build_width: `GraphParameters.build_width`.
        outside: sequence numbers up to `last_seq` that the graph does not answer for, little-endian int64.
    """

    file: str
    size: int
    sha256: str
    last_seq: int
    library: str
    links: int
    build_width: int
    outside: bytes


@dataclass(frozen=True)
class Changes:
    """The changes of one transaction.

    Attributes:
        removed: sequence numbers of the items to remove, all of them present.
        added: items to add; none of their ids is present once `removed` is gone.
        ingests: last batch by ingest id.
        next_seq: one more than the highest number ever assigned.
        item_count: items in the collection afterwards.
        purge: mark that deleted data must also be erased; `Store.erase` clears the mark.
    """

    removed: Sequence[int]
    added: Sequence[StoredItem]
    ingests: Mapping[str, int]
    next_seq: int
    item_count: int
    purge: bool = False


def vector_of(stored: StoredItem) -> np.ndarray:
    """Returns an item's vector as written, `[dimension] float32`."""
    return np.frombuffer(stored.vector, "<f4").astype(np.float32)
