"""What a collection's store takes and gives: items, graphs' files on record, and one write's changes."""

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
    """What is known of a graph's file.

    Attributes:
        file: its name in the collection's folder.
        size: its bytes.
        sha256: digest of the file and `outside` behind it, hexadecimal.
        last_seq: of the items up to this number the graph holds all that it will; later ones are not in it.
        library: the library and version that wrote it, and what the vectors in it were multiplied by, if anything.
        links: `GraphParameters.links`.
        build_width: `GraphParameters.build_width`.
        outside: sequence numbers up to `last_seq` for which the graph must not be asked, little-endian int64.
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
    """What one transaction writes.

    Attributes:
        removed: sequence numbers of the items to remove, all of them present.
        added: items to add; none of their ids is present once `removed` is gone.
        ingests: last batch by ingest id.
        next_seq: the number after the highest ever given out.
        item_count: items in the collection afterwards.
        purge: leave the mark that what was deleted is to be erased too; `Store.erase` takes it off.
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
