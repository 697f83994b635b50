"""What a search found, with its contents: metadata from memory, vectors as they were written from disk."""

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

# To look for a field that not all have takes 9 us for ten items, to read one item from the disk 30 and more.
_FIELDS_PER_ITEM = 5


class Content(NamedTuple):
    """What is shown of an item, each None where it was not asked for.

    Attributes:
        metadata: its fields.
        vector: `[dimension] float32` as written.
    """

    metadata: Metadata | None
    vector: np.ndarray | None


def contents_of(answer: Answer, options: SearchOptions, rows: Rows, store: Store) -> Mapping[int, Content | None]:
    """Returns what is to be shown of the rows found, by row.

    Args:
        answer: what was found.
        options: say what is wanted; without metadata and vectors there is nothing.
        rows: that were searched, with their metadata in memory.
        store: where the items lie as they were written.

    Returns:
        None for an item that is wanted from the disk, and was rewritten or deleted meanwhile.

    Raises:
        AnswerTooLarge: all of it would have more than `max_content_bytes`; one item may be the match of many queries.
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
    if int(counts.sum()) * MAX_ENCODED_BYTES > options.max_content_bytes:  # a search for a few needs no look
        _check_room((len(encode_metadata(one)) for one in metadata), counts, options)
    return {row: Content(one, None) for row, one in zip(found.tolist(), metadata, strict=True)}


def matches_of(
    answer: Answer, contents: Mapping[int, Content | None], *, ids: list[str], metric: Metric
) -> list[list[Match]]:
    """Returns the matches of each query, closest first.

    Args:
        answer: what was found.
        contents: of the rows found; where there are any, rows without are left out.
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
    """Raises AnswerTooLarge where contents of these sizes, each shown so many times, are too much."""
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
