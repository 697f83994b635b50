"""Adds contents to a search's results: metadata from memory, vectors as written from disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from twinsight_core.index.base import Metric
from twinsight_core.items import Match, SearchOptions, answer_too_large
from twinsight_core.metadata import MAX_ENCODED_BYTES, Metadata, decode_metadata, encode_metadata
from twinsight_core.search.rows import Rows
from twinsight_core.search.search import Answer
from twinsight_core.storage.records import StoredItem, vector_of
from twinsight_core.storage.store import Store

# Looking for a field that not all have takes 9 us for ten items; reading one item from disk takes 30 us or more.
_FIELDS_PER_ITEM = 5


class Content(NamedTuple):
    """The returned contents of an item, each None if it was not asked for.

    Attributes:
        metadata: its fields.
        vector: `[dimension] float32` as written.
    """

    metadata: Metadata | None
    vector: np.ndarray | None


def contents_of(answer: Answer, options: SearchOptions, rows: Rows, store: Store) -> Mapping[int, Content | None]:
    """Returns the contents to return for the rows found, by row.

    Args:
        answer: what was found.
        options: which contents to return; empty without metadata and vectors.
        rows: the searched rows, with their metadata in memory.
        store: has the items as written.

    Returns:
        None for an item that must be read from disk, but was rewritten or deleted meanwhile.

    Raises:
        AnswerTooLarge: the total would exceed `max_content_bytes`; one item may match many queries.
        DataLoss: the store is damaged.
    """
    if not (options.include_metadata or options.include_vectors) or not answer.found:
        return {}
    found, counts = np.unique(np.concatenate([one.rows for one in answer.found]), return_counts=True)
    if options.include_vectors or rows.field_count > _FIELDS_PER_ITEM * len(found):
        stored = store.by_seq(answer.view.labels[found].tolist(), max_bytes=options.max_content_bytes)
        _check_room((_bytes_of(item, options) for item in stored), counts, options)
        return {row: item and _shown(item, options) for row, item in zip(found.tolist(), stored, strict=True)}
    metadata = rows.metadata(found)
    if int(counts.sum()) * MAX_ENCODED_BYTES > options.max_content_bytes:  # a search for a few can't exceed it
        _check_room((len(encode_metadata(one)) for one in metadata), counts, options)
    return {row: Content(one, None) for row, one in zip(found.tolist(), metadata, strict=True)}


def matches_of(
    answer: Answer, contents: Mapping[int, Content | None], *, ids: list[str], metric: Metric
) -> list[list[Match]]:
    """Returns the matches of each query, closest first.

    Args:
        answer: what was found.
        contents: of the rows found; unless empty, rows without contents are left out.
        ids: by row.
        metric: turns scores into distances.
    """
    results: list[list[Match]] = []
    for found in answer.found:
        scores = found.scores.tolist()
        near = zip(found.rows.tolist(), scores, metric.distances(scores), strict=True)
        if not contents:
            results.append([Match(ids[row], score, distance) for row, score, distance in near])
            continue
        results.append(
            [
                Match(ids[row], score, distance, *content)
                for row, score, distance in near
                if (content := contents.get(row)) is not None
            ]
        )
    return results


def _check_room(sizes: Iterable[int], counts: np.ndarray, options: SearchOptions) -> None:
    """Raises AnswerTooLarge if contents of these sizes, each returned so many times, are too large."""
    if sum(size * count for size, count in zip(sizes, counts.tolist(), strict=True)) > options.max_content_bytes:
        raise answer_too_large()


def _bytes_of(item: StoredItem | None, options: SearchOptions) -> int:
    if item is None:
        return 0
    return len(item.metadata) * options.include_metadata + len(item.vector) * options.include_vectors


def _shown(item: StoredItem, options: SearchOptions) -> Content:
    return Content(
        decode_metadata(item.metadata) if options.include_metadata else None,
        vector_of(item) if options.include_vectors else None,
    )
