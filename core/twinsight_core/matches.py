"""What a search found in memory, with its contents on disk."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from twinsight_core.index.base import Metric
from twinsight_core.items import Match, SearchOptions, answer_too_large
from twinsight_core.metadata import decode_metadata
from twinsight_core.records import StoredItem, vector_of
from twinsight_core.search import Answer
from twinsight_core.store import Store


def contents_of(answer: Answer, options: SearchOptions, store: Store) -> Mapping[int, StoredItem | None]:
    """Returns what is on disk of the rows found, by row; None where an item was rewritten or deleted meanwhile.

    Args:
        answer: what was found.
        options: say what is wanted; without metadata and vectors nothing is read.
        store: where the items lie.

    Raises:
        AnswerTooLarge: all of it would have more than `max_content_bytes`; one item may be the match of many queries.
        DataLoss: the store is damaged.
    """
    if not options.include_metadata and not options.include_vectors:
        return {}
    rows = np.unique(np.concatenate([found.rows for found in answer.found])) if answer.found else np.empty(0, int)
    stored = store.by_seq(answer.view.labels[rows].tolist(), max_bytes=options.max_content_bytes)
    contents = dict(zip(rows.tolist(), stored, strict=True))
    sizes = {row: _content_bytes(item, options) for row, item in contents.items() if item is not None}
    if sum(sizes.get(row, 0) for found in answer.found for row in found.rows.tolist()) > options.max_content_bytes:
        raise answer_too_large()
    return contents


def matches_of(
    answer: Answer,
    contents: Mapping[int, StoredItem | None],
    options: SearchOptions,
    *,
    ids: list[str],
    metric: Metric,
) -> list[list[Match]]:
    """Returns the matches of each query, closest first.

    Args:
        answer: what was found.
        contents: of the rows found; where there are any, rows without are left out.
        options: say what a match shows and how close it must be.
        ids: by row.
        metric: turns scores into distances.
    """
    results: list[list[Match]] = []
    for found in answer.found:
        near = list(zip(found.rows.tolist(), found.scores.tolist(), strict=True))
        if options.min_score is not None:
            near = near[: sum(score >= options.min_score for _, score in near)]
        if not contents:
            results.append([Match(ids[row], score, metric.distance(score)) for row, score in near])
            continue
        matches: list[Match] = []
        for row, score in near:
            stored = contents.get(row)
            if stored is not None:
                metadata = decode_metadata(stored.metadata) if options.include_metadata else None
                vector = vector_of(stored) if options.include_vectors else None
                matches.append(Match(ids[row], score, metric.distance(score), metadata, vector))
        results.append(matches)
    return results


def _content_bytes(item: StoredItem, options: SearchOptions) -> int:
    return len(item.metadata) * options.include_metadata + len(item.vector) * options.include_vectors
