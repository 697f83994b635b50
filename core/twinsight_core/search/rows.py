"""A collection's items in memory, in the order of writing: vectors, ids and metadata columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twinsight_core.filters import Filter
from twinsight_core.host.accelerators import has_accelerator
from twinsight_core.index.base import Metric, prepared
from twinsight_core.index.exact import ExactIndex, ExactView
from twinsight_core.index.row_memory import IN_MEMORY, RowPlaces
from twinsight_core.metadata import Metadata
from twinsight_core.search.columns import Columns

if TYPE_CHECKING:
    from twinsight_core.index.device import DeviceCopy


@dataclass(frozen=True)
class RowBatch:
    """Items to append.

    Attributes:
        seqs: `[n] int64`, rising.
        ids: n ids.
        vectors: `[n, dimension] float32`, as written.
        metadata: n times the fields.
    """

    seqs: np.ndarray
    ids: Sequence[str]
    vectors: np.ndarray
    metadata: Sequence[Metadata]


class Rows:
    """Items by row. One thread writes; the views of other threads don't change.

    The vectors' labels are sequence numbers: they rise with the rows and are never used twice.
    """

    def __init__(self, dimension: int, metric: Metric, *, capacity: int = 1024, places: RowPlaces = IN_MEMORY) -> None:
        """Allocates room.

        Args:
            dimension: of the vectors.
            metric: the metric.
            capacity: initial room, in items.
            places: where the vectors are kept, and in which form they are scanned.
        """
        self._metric = metric
        self._places = places
        device = _device_copy(dimension, metric) if has_accelerator() else None
        self.exact = ExactIndex(dimension, metric, capacity=capacity, device=device, places=places)
        self.ids: list[str] = []
        self._columns = Columns()

    @property
    def view(self) -> ExactView:
        """The rows at this moment."""
        return self.exact.view

    def apply(self, added: RowBatch, removed: np.ndarray) -> None:
        """Appends and removes in one step: a search sees all of it or nothing.

        Args:
            added: items to append.
            removed: `[m] int64`, sequence numbers of items to remove.
        """
        # Nobody looks past the rows of a view, so that these may run ahead of it.
        self._columns.append(len(self.view), added.metadata)
        self.ids.extend(added.ids)
        self.exact.apply(added.seqs, prepared(added.vectors, self._metric), removed=removed)

    def mask(self, filter_: Filter, view: ExactView) -> np.ndarray:
        """Returns which live rows of a view meet a filter, `[count] bool`."""
        mask = self._columns.mask(filter_, len(view))
        mask &= view.alive
        return mask

    def metadata(self, rows: np.ndarray) -> list[Metadata]:
        """Returns the metadata of each of `rows: [n] int64`, rising, as written except for the order of the fields."""
        return self._columns.metadata(rows)

    @property
    def field_count(self) -> int:
        """How many different fields the rows have."""
        return self._columns.field_count

    def compacted(self, view: ExactView) -> Rows:
        """Returns the live rows of a view as new ones, without the removed."""
        room = max(1024, view.live * 5 // 4)
        compact = Rows(view.vectors.shape[1], self._metric, capacity=room, places=self._places)
        kept = np.flatnonzero(view.alive)
        compact._columns = self._columns.compacted(view.alive)
        compact.ids = [self.ids[row] for row in kept.tolist()]
        nothing = np.empty(0, np.int64)
        # In steps: a copy of all vectors at once would be a third one.
        for first in range(0, len(kept), 16384):
            part = kept[first : first + 16384]
            compact.exact.apply(view.labels[part], view.read(part), removed=nothing)
        return compact

    def adopt(self, other: Rows, since: int) -> int:
        """Appends the live rows of `other` from row `since` on, and removes those that have been removed there since.

        Returns:
            Where to continue: the row after the last one seen.
        """
        view = other.view
        known = self.view.labels[self.view.alive]
        dead = known[~view.alive[view.rows_of(known)]]
        fresh = since + np.flatnonzero(view.alive[since:])
        self._columns.append(len(self.view), other._columns.metadata(fresh))
        self.ids.extend(other.ids[row] for row in fresh.tolist())
        self.exact.apply(view.labels[fresh], view.read(fresh), removed=dead)
        return len(view)


def _device_copy(dimension: int, metric: Metric) -> DeviceCopy:
    from twinsight_core.index.device import DeviceCopy  # noqa: PLC0415 - brings JAX along

    return DeviceCopy(dimension, metric)
