"""Loads a collection into memory when it opens: its rows from the store, and its graph from a snapshot."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from twinsight_core.errors import StorageFull, Unavailable
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.index.row_memory import RowPlaces
from twinsight_core.metadata import decode_metadata
from twinsight_core.search.beside import NOTHING_BESIDE, Beside
from twinsight_core.search.fingerprints import fingerprints_of
from twinsight_core.search.generation import Coverage, Generation
from twinsight_core.search.rows import RowBatch, Rows
from twinsight_core.storage import snapshots
from twinsight_core.storage.store import Store

_RESTORED_ROWS = 4096  # read at a time, with their vectors

_log = logging.getLogger("twinsight.collection")

_FOREIGN = (AttributeError, OverflowError, RecursionError, StopIteration, TypeError, ValueError)
"""Raised for a row whose checksum is right but that nothing here wrote: its metadata is no JSON object, say."""


def finish_purge(folder: Path, store: Store) -> None:
    """Finishes a purge that was interrupted by the end of the process."""
    try:
        snapshots.drop(folder, store)
        store.erase()
    except (StorageFull, Unavailable) as error:
        # It can still be searched, and the next purge or start retries.
        _log.warning("collection `%s`: %s", store.spec.id, error.message)


def read_rows(store: Store, places: RowPlaces) -> Rows:
    """Returns all items of a store as rows, with their vectors in their places.

    Raises:
        DataLoss: the store is damaged.
    """
    room = max(1024, store.item_count * 5 // 4)
    rows = Rows(store.spec.dimension, store.spec.metric, capacity=room, places=places)
    nothing = np.empty(0, np.int64)
    for items in store.scan():
        try:
            batch = RowBatch(
                seqs=np.array([item.seq for item in items], np.int64),
                ids=[item.id for item in items],
                vectors=np.frombuffer(b"".join(item.vector for item in items), "<f4").reshape(len(items), -1),
                metadata=[decode_metadata(item.metadata) for item in items],
            )
            rows.apply(batch, nothing)
        except _FOREIGN as error:
            raise store.damaged(f"an item has contents that were never accepted ({type(error).__name__})") from error
    return rows


def restored(rows: Rows, folder: Path, store: Store, parameters: GraphParameters, *, graph_from: int) -> Generation:
    """Returns rows with the graph of the last sound snapshot, if there is one.

    Args:
        rows: all items of the store.
        folder: the collection's folder.
        store: the store.
        parameters: how graphs are built.
        graph_from: least number of items for a graph.
    """
    snapshots.clean(folder, store)
    if rows.view.live < graph_from:
        return Generation(rows)
    view = rows.view
    loaded = snapshots.load(folder, store, parameters, alive=view.labels)
    if loaded is None:
        return Generation(rows)
    graph, last_seq, outside = loaded
    end = int(np.searchsorted(view.labels, last_seq, side="right"))
    held = np.isin(view.labels[:end], graph.labels()) & ~np.isin(view.labels[:end], outside)
    generation = Generation(rows, graph)
    covered, rest = np.flatnonzero(held), np.flatnonzero(~held)
    parts = (rest[first : first + _RESTORED_ROWS] for first in range(0, len(rest), _RESTORED_ROWS))
    groups = [generation.groups.numbers(view.read(part)) for part in parts]
    generation.coverage = Coverage(end, Beside(rest, np.concatenate(groups)) if groups else NOTHING_BESIDE)
    for first in range(0, len(covered), _RESTORED_ROWS):
        marks = fingerprints_of(view.read(covered[first : first + _RESTORED_ROWS]))
        generation.fingerprints.restored(marks, has_dead=bool(graph.dead))
    return generation
