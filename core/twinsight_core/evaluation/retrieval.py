"""Retrieval scores: every picture is searched for among all the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Similarities at once: 16 MiB of them; their order and what is summed over it take ten times as much at most.
_BLOCK_VALUES = 4 * 1024 * 1024


@dataclass(frozen=True)
class RetrievalScores:
    """How well an embedding finds pictures of the same class.

    Attributes:
        recall_at_k: share of queries with one of their class among the k closest others, 0..1, by k.
        r_precision: mean share of the query's class among its R closest, 0..1, where R is how many there are.
        map_at_r: mean average precision at R, 0..1.
        queries: pictures that were searched for: those not alone in their class.
    """

    recall_at_k: dict[int, float]
    r_precision: float
    map_at_r: float
    queries: int


def retrieval_scores(embeddings: np.ndarray, labels: np.ndarray, *, ks: Sequence[int] = (1, 5, 10)) -> RetrievalScores:
    """Returns how well every picture finds the others of its class among all the other pictures.

    For a query whose class has R other pictures, R-precision = r / R with r of them among the R closest, and MAP@R =
    1/R x the sum over ranks i = 1..R of P(i), where P(i) is the precision at i if the i-th closest is of the class and
    0 otherwise. Pictures alone in their class are not queries, but can be found.

    The similarities are computed block by block: besides the embeddings, less than 200 MiB are in use.

    Source: Musgrave, Belongie and Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2, eqs. 1 and 2;
    Recall@K as in Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016, section 6.

    Args:
        embeddings: [count, dimension] float32, unit vectors.
        labels: [count] integer.
        ks: the k of Recall@K, each at least 1; beyond the last picture all count.

    Raises:
        ValueError: shapes differ, a `k` is below 1, an embedding is not finite, or no class has two pictures.
    """
    _check(embeddings, labels, ks)
    _, class_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    others = counts[class_of] - 1
    queries = np.flatnonzero(others > 0)
    if not len(queries):
        raise ValueError("`labels` must have a class with two pictures.")
    deepest = min(max(int(others.max()), *ks), len(labels) - 1)
    ranks = np.arange(1, deepest + 1)
    found = dict.fromkeys(ks, 0)
    shares, precision = 0.0, 0.0
    rows_at_once = max(1, _BLOCK_VALUES // len(labels))
    for start in range(0, len(queries), rows_at_once):
        rows = queries[start : start + rows_at_once]
        hit = class_of[_closest(embeddings, rows, deepest)] == class_of[rows, None]
        r = others[rows, None]
        within = hit & (ranks[None, :] <= r)
        shares += float((within / r).sum())
        precision += float((within * np.cumsum(hit, axis=1) / ranks / r).sum())
        for k in found:
            found[k] += int(hit[:, :k].any(axis=1).sum())
    count = len(queries)
    return RetrievalScores(
        recall_at_k={k: found[k] / count for k in found},
        r_precision=shares / count,
        map_at_r=precision / count,
        queries=count,
    )


def _closest(embeddings: np.ndarray, rows: np.ndarray, depth: int) -> np.ndarray:
    """Returns the numbers of the closest others of each row, the closest first, [rows, depth] int64."""
    distance = -(embeddings[rows] @ embeddings.T)
    distance[np.arange(len(rows)), rows] = np.inf
    nearest = np.argpartition(distance, depth - 1, axis=1)[:, :depth]
    order = np.argsort(np.take_along_axis(distance, nearest, axis=1), axis=1, kind="stable")
    return np.take_along_axis(nearest, order, axis=1)


def _check(embeddings: np.ndarray, labels: np.ndarray, ks: Sequence[int]) -> None:
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"`embeddings` {embeddings.shape} must be [count, dimension] and `labels` {labels.shape} [count]."
        )
    if not ks or min(ks) < 1:
        raise ValueError(f"`ks` (={tuple(ks)}) must hold numbers of at least 1.")
    if not np.isfinite(embeddings).all():
        raise ValueError("`embeddings` must be finite.")
