"""hnswlib alone, in this process: the index that twinsight walks, without all that is around it there."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import cast

import hnswlib
import numpy as np

from benchmarks.peers.orders import Answer, Settings, Subject

TOP_K = 10
CORES = os.cpu_count() or 1


def fill(settings: Settings) -> Settings:
    """Builds the graph and saves it; settings: folder, vectors, m, ef_construction."""
    vectors = np.load(str(settings["vectors"]))
    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    start = time.monotonic()
    index.init_index(len(vectors), M=int(settings["m"]), ef_construction=int(settings["ef_construction"]))
    index.add_items(vectors, num_threads=CORES)
    seconds = time.monotonic() - start
    index.save_index(str(_file(settings)))
    return {"indexed_s": round(seconds, 2)}


def subject(settings: Settings) -> Searching:
    """Returns the saved graph; settings: folder, queries, ef."""
    queries = np.load(str(settings["queries"]))
    index = _loaded(str(_file(settings)), queries.shape[1])
    index.set_ef(int(settings["ef"]))
    return Searching(index, queries)


class Searching:
    """A graph and its queries."""

    def __init__(self, index: hnswlib.Index, queries: np.ndarray) -> None:
        self.index = index
        self.queries = queries

    def call(self, number: int) -> np.ndarray:
        """Asks one query, by one thread; returns the numbers of the vectors found."""
        labels, _ = self.index.knn_query(self.queries[number % len(self.queries)], k=TOP_K, num_threads=1)
        return np.asarray(labels[0])

    def batch(self, first: int, size: int) -> object:
        """Asks many, by a thread a core."""
        places = np.arange(first, first + size) % len(self.queries)
        return self.index.knn_query(self.queries[places], k=TOP_K, num_threads=CORES)

    def values(self, number: int) -> list[float]:
        """Returns the numbers of the vectors found."""
        return [float(one) for one in self.call(number)]

    def close(self) -> None:
        """Nothing to end."""


def load(subjects: Sequence[Subject], at: float, seconds: float) -> Answer:
    """Returns how many queries a thread a core answers, all of them given at once, again and again."""
    one = cast("Searching", subjects[0])
    while time.monotonic() < at:
        one.batch(0, len(one.queries))
    begun, count = time.monotonic(), 0
    while (now := time.monotonic()) < at + seconds:
        one.batch(0, len(one.queries))
        count += len(one.queries)
    # The last batch ends after the window: what is counted is scaled to it.
    return Answer(count=round(count * seconds / (now - begun)))


def _file(settings: Settings) -> Path:
    return Path(str(settings["folder"])) / "hnswlib.bin"


@cache
def _loaded(file: str, dimension: int) -> hnswlib.Index:
    index = hnswlib.Index(space="ip", dim=dimension)
    index.load_index(file)
    return index
