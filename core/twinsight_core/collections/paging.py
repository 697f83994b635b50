"""Pages of a collection, in an order that no write changes.

The order is that of the items' keys on disk: their ids, in UTF-8, or in an encrypted collection their pseudonyms. An
item that exists throughout a listing is therefore on one of its pages, however often it is written meanwhile, even by
the reader of the pages.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from twinsight_core.filters import Filter
from twinsight_core.search.rows import Rows
from twinsight_core.storage.records import StoredItem
from twinsight_core.storage.store import Store

# Sorting this many names takes a few milliseconds. With more matches, finding a page of 1,000 skips at most a quarter
# of a million items, in a collection of a million.
_SORTED_MATCHES = 4096
_MOST_PASSED_AT_ONCE = 4096


@dataclass(frozen=True)
class Reading:
    """How items are read; `max_bytes` and `with_vectors` as in `Store.by_id`."""

    store: Store
    max_bytes: int | None
    with_vectors: bool


def page_of_all(reading: Reading, after: str, limit: int) -> tuple[list[StoredItem], str | None]:
    """Returns the items of a page, and the key after which the next page starts; None if it is the last.

    Args:
        reading: how to read the items.
        after: key of the last item of the previous page; empty for the first page.
        limit: items on the page.

    Raises:
        AnswerTooLarge, DataLoss: as `Store.by_id`.
    """
    store = reading.store
    page = store.after(after, limit, max_bytes=reading.max_bytes, with_vectors=reading.with_vectors)
    if len(page) < limit:
        return page, None
    (last,) = store.form.names([page[-1].id])
    return page, last if store.names_after(last, 1) else None


def page_of_matches(
    reading: Reading, rows: Rows, filter_: Filter, after: str, limit: int
) -> tuple[list[StoredItem], str | None]:
    """Returns the same for the items that meet a filter; disk and memory (`rows`) must agree meanwhile."""
    store = reading.store
    named = _first_matching(store, rows, filter_, after, limit + 1)
    wanted = [seq for _, seq in named[:limit]]
    read = store.by_seq(wanted, max_bytes=reading.max_bytes, with_vectors=reading.with_vectors)
    page = [stored for stored in read if stored is not None]
    if len(page) < len(wanted):
        raise store.damaged("an item of the page is missing")
    return page, named[limit - 1][0] if len(named) > limit else None


def _first_matching(store: Store, rows: Rows, filter_: Filter, after: str, count: int) -> list[tuple[str, int]]:
    """Returns the first items after one that meet a filter: keys and sequence numbers."""
    labels, meets = rows.view.labels, rows.mask(filter_, rows.view)
    matching = np.flatnonzero(meets)
    if len(matching) <= _SORTED_MATCHES:
        names = store.form.names([rows.ids[row] for row in matching.tolist()])
        found = zip(names, labels[matching].tolist(), strict=True)
        return heapq.nsmallest(count, (one for one in found if one[0] > after))
    first: list[tuple[str, int]] = []
    at_once = min(1 + count * len(labels) // len(matching), _MOST_PASSED_AT_ONCE)
    while len(first) < count and (passed := store.names_after(after, at_once)):
        after = passed[-1][0]
        places = np.searchsorted(labels, [seq for _, seq in passed])
        first.extend(passed[place] for place in np.flatnonzero(meets[places]).tolist())
    return first[:count]
