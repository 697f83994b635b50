"""The interface of an index, and the distance metrics."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import numpy as np


class Metric(StrEnum):
    """How distance is measured. For every metric a higher score is closer; a distance is the metric's own."""

    COSINE = "cosine"  # score = cosine similarity, distance = 1 - score
    EUCLIDEAN = "euclidean"  # score = -distance
    DOT = "dot"  # score = inner product, distance = -score

    def distances(self, scores: list[float]) -> list[float]:
        """Returns the metric's own distances for scores."""
        most = 1.0 if self is Metric.COSINE else 0.0
        return [most - score for score in scores]


class VectorIndex(Protocol):
    """Labelled vectors, and a search among them. Every method may be called from any thread.

    Vectors and queries are prepared (see `prepared`): `[n, dimension] float32`, finite. Labels are `[n] int64`, 0 and
    up, each used once.
    """

    def __len__(self) -> int:
        """Returns how many vectors a search may find."""
        ...

    def add(self, labels: np.ndarray, vectors: np.ndarray) -> None:
        """Adds vectors under labels that are higher than any before."""
        ...

    def remove(self, labels: np.ndarray) -> None:
        """Takes vectors out of every later search. Labels that the index does not hold are ignored."""
        ...

    def search(self, queries: np.ndarray, width: int) -> np.ndarray:
        """Returns each query's nearest labels, `[n, min(width, len(self))] int64`, closest first, -1 for none found."""
        ...


def prepared(vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """Returns vectors as the indexes hold them: under cosine of length 1, otherwise as they are.

    Args:
        vectors: `[n, dimension] float32`, finite; under cosine none is all zero.
        metric: the metric they will be compared by.

    Returns:
        `[n, dimension] float32`, C-contiguous, without negative zeros, so that equal vectors have equal bytes.
    """
    if metric is Metric.COSINE:
        wide = vectors.astype(np.float64)
        # float64, since the square of a float32 over 1.8e19 is not a float32.
        wide /= np.sqrt(np.vecdot(wide, wide))[:, None]
        vectors = wide.astype(np.float32)
    return np.ascontiguousarray(vectors, dtype=np.float32) + np.float32(0.0)


def scores(queries: np.ndarray, vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """Returns the scores of vectors, computed in float64, so that they are the same whichever index found them.

    Args:
        queries: `[n, dimension] float32`, prepared.
        vectors: `[n, k, dimension] float32`, prepared: k for each query.
        metric: the metric.

    Returns:
        `[n, k] float32`, higher is closer. Cosine similarities lie in -1..1, and equal vectors score exactly 1.
    """
    # In this order, since a sum of numbers that lie apart may differ in its last bits.
    wide = vectors.astype(np.float64, order="C")
    query = queries.astype(np.float64, order="C")[:, None, :]
    if metric is Metric.EUCLIDEAN:
        wide -= query
        distances: np.ndarray = np.sqrt(np.vecdot(wide, wide))
        return 0.0 - distances.astype(np.float32)  # not -0.0 of what is equal
    product: np.ndarray = np.vecdot(wide, query)
    if metric is Metric.COSINE:
        # Vectors of length 1 in float32 are so only to seven digits.
        product /= np.sqrt(np.vecdot(wide, wide) * np.vecdot(query, query))
        np.minimum(np.maximum(product, -1.0, out=product), 1.0, out=product)  # np.clip takes twice as long
    return product.astype(np.float32)
