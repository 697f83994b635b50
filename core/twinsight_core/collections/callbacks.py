"""The callbacks of a collection's writer, indexer and combiners, which do not refer to the collection.

In a reference cycle with them, a deleted collection would stay in memory until garbage is collected: forever, if it
existed when the server began to serve (`gc.freeze`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twinsight_core.errors import StorageFull, Unavailable
from twinsight_core.filters import Filter
from twinsight_core.index.hnsw import HnswIndex
from twinsight_core.items import NewItem, SearchOptions
from twinsight_core.search.combining import Searched
from twinsight_core.search.indexer import Indexer
from twinsight_core.search.rows import RowBatch
from twinsight_core.search.search import search
from twinsight_core.storage import snapshots
from twinsight_core.storage.store import Store


def search_generation(indexer: Indexer, queries: np.ndarray, options: SearchOptions, *, ef: int) -> Searched:
    """Searches the current generation; `ef` is the width of a walk if the request gives none."""
    indexer.searched()
    generation = indexer.generation
    return Searched(generation, search(generation, queries, options, ef=ef))


def apply(indexer: Indexer, dimension: int, added: Sequence[tuple[int, NewItem]], removed: np.ndarray) -> None:
    """Makes a write visible: new items by sequence number, and the `[m] int64` numbers of removed ones."""
    batch = RowBatch(
        seqs=np.array([seq for seq, _ in added], np.int64),
        ids=[item.id for _, item in added],
        vectors=np.array([item.vector for _, item in added], np.float32).reshape(-1, dimension),
        metadata=[item.metadata for _, item in added],
    )
    indexer.apply(batch, removed)


def matching(indexer: Indexer, filter_: Filter) -> list[str]:
    """Returns the ids of all items that meet a filter."""
    rows = indexer.generation.rows
    view = rows.view
    return [rows.ids[row] for row in np.flatnonzero(rows.mask(filter_, view)).tolist()]


def erase(indexer: Indexer, folder: Path, store: Store) -> None:
    """Erases from the disk what was deleted or replaced.

    Raises:
        StorageFull: the disk has no room, or fails; reason PURGE_UNFINISHED.
        Unavailable: a long read, another program or a shortage holds it up; reason PURGE_BLOCKED.
    """
    try:
        with indexer.purging():
            snapshots.drop(folder, store)
        store.erase()
    except (StorageFull, Unavailable) as error:
        # Reasons of its own: those of a deletion that was not done would say so of this one.
        is_full = isinstance(error, StorageFull)
        why = "The disk is full or failing." if is_full else error.message
        raise type(error)(
            f"The items are deleted, but not yet erased from the disk. {why} Delete them again with `purge`; the "
            "next start erases them too.",
            reason="PURGE_UNFINISHED" if is_full else "PURGE_BLOCKED",
        ) from error


def save(folder: Path, store: Store, graph: HnswIndex, last_seq: int, outside: np.ndarray) -> None:
    """Writes a snapshot of the graph; see `snapshots.save`."""
    snapshots.save(graph, last_seq, outside, folder, store)
