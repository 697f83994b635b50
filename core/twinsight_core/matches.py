"""What a search found, with its contents: metadata from memory, vectors as they were written from disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from twinsight_core.index.base import Metric
from twinsight_core.items import Match, SearchOptions, answer_too_large
from twinsight_core.metadata import MAX_BYTES, Metadata, decode_metadata, encode_metadata
from twinsight_core.records import vector_of
from twinsight_core.rows import Rows
from twinsight_core.search import Answer
from twinsight_core.store import Store

# To look for one field takes about a tenth of reading one item from the disk.
_FIELDS_PER_ITEM = 10


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
    found = np.concatenate([one.rows for one in answer.found])
    numbers, matches = np.unique(found, return_counts=True)
    if options.include_vectors or rows.field_count > _FIELDS_PER_ITEM * len(numbers):
        return _from_disk(answer, options, store, numbers, matches)
    metadata = rows.metadata(numbers)
    if len(found) * MAX_BYTES > options.max_content_bytes:
        sizes = (len(encode_metadata(one)) for one in metadata)
        if sum(size * count for size, count in zip(sizes, matches.tolist(), strict=True)) > options.max_content_bytes:
            raise answer_too_large()
    return {row: Content(one, None) for row, one in zip(numbers.tolist(), metadata, strict=True)}


def matches_of(
    answer: Answer,
    contents: Mapping[int, Content | None],
    options: SearchOptions,
    *,
    ids: list[str],
    metric: Metric,
) -> list[list[Match]]:
    """Returns the matches of each query, closest first.

    Args:
        answer: what was found.
        contents: of the rows found; where there are any, rows without are left out.
        options: say how close a match must be.
        ids: by row.
        metric: turns scores into distances.
    """
    results: list[list[Match]] = []
    for found in answer.found:
        rows, scores = found.rows.tolist(), found.scores.tolist()
        if options.min_score is not None:
            scores = [score for score in scores if score >= options.min_score]  # falling: the first ones
        near = zip(rows, scores, metric.distances(scores), strict=False)
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


def _from_disk(
    answer: Answer, options: SearchOptions, store: Store, numbers: np.ndarray, matches: np.ndarray
) -> Mapping[int, Content | None]:
    stored = store.by_seq(answer.view.labels[numbers].tolist(), max_bytes=options.max_content_bytes)
    contents: dict[int, Content | None] = {}
    total = 0
    for row, item, count in zip(numbers.tolist(), stored, matches.tolist(), strict=True):
        if item is None:
            contents[row] = None
            continue
        total += count * (len(item.metadata) * options.include_metadata + len(item.vector) * options.include_vectors)
        contents[row] = Content(
            decode_metadata(item.metadata) if options.include_metadata else None,
            vector_of(item) if options.include_vectors else None,
        )
    if total > options.max_content_bytes:
        raise answer_too_large()
    return contents
