"""The graph index: hnswlib behind a lock, guarded against the failures that it has shown.

Source: Y. Malkov, D. Yashunin, Efficient and robust approximate nearest neighbor search using Hierarchical Navigable
Small World graphs, IEEE TPAMI 42(4), 2020.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import hnswlib
import numpy as np

from twinsight_core.host.shared_work import share_work
from twinsight_core.index.base import Metric
from twinsight_core.index.locks import ReadWriteLock

LIBRARY = f"hnswlib {importlib.metadata.version('hnswlib')}"

# Threads that insert into an empty graph don't see one another's points and may leave some without links.
_FIRST_ALONE = 256

# Searches wait for so many to be removed: at most 3 ms, where the graph has none of them.
_REMOVED_AT_ONCE = 256

STEPS_PER_THREAD = 512
"""Of walks (`steps`), worth a thread, a millisecond and more: threads are started for each call."""
# Points to be added, worth a thread.
_POINTS_PER_THREAD = 4
# Under the inner product the graph is given the vectors times a power of two, by which the longest is some 2**30 long.
# The library's distance is 1 - x.y in float32: of products much smaller than 1 it keeps no more than 6e-8. Vectors of
# length 1e-3 had a recall@10 of 0.576, of length 1e-4 0.002.
_LENGTH_EXPONENT = 30
# Lengths at which the longest is still told apart from others, and the product of two is no infinity.
_SHORTEST, _LONGEST = 2.0**-6, 2.0**62
# A walk of width w takes 17 + 3.2 w us (30,000 x 256): before it widens it comes down the layers.
_STEPS_DOWN = 5


class _Native(Protocol):
    """The part of `hnswlib.Index` that is used; the library has no types."""

    def init_index(self, max_elements: int, M: int, ef_construction: int) -> None: ...  # noqa: N803
    def load_index(self, path_to_index: str, max_elements: int) -> None: ...
    def save_index(self, path_to_index: str) -> None: ...
    def index_file_size(self) -> int: ...
    def resize_index(self, new_size: int) -> None: ...
    def add_items(self, data: np.ndarray, ids: np.ndarray, num_threads: int) -> None: ...
    def mark_deleted(self, label: int) -> None: ...
    def set_ef(self, ef: int) -> None: ...
    def knn_query(self, data: np.ndarray, k: int, num_threads: int) -> tuple[np.ndarray, np.ndarray]: ...
    def get_current_count(self) -> int: ...
    def get_max_elements(self) -> int: ...
    def get_ids_list(self) -> list[int]: ...


@dataclass(frozen=True)
class GraphParameters:
    """How a graph is built.

    Attributes:
        links: links of a point on each layer but the lowest, which has twice as many (M in the paper).
        build_width: width of the walk that finds a new point's neighbours (efConstruction in the paper).
        threads: threads that build, and that answer a batch of queries.
    """

    links: int = 16
    build_width: int = 200
    threads: int = 1


class HnswIndex:
    """A navigable graph. Searches run concurrently; changes wait for them and run alone.

    The library starts no threads: where it could start only some of several, it would end the process.

    Adding during a search makes it fail and growing during a search crashes the process, hence the lock
    (https://github.com/nmslib/hnswlib/issues/562). Removed points stay as stepping stones; they are never overwritten,
    since that makes others unreachable (arXiv:2407.07871): build a new index when many are dead.
    """

    def __init__(
        self,
        dimension: int,
        metric: Metric,
        parameters: GraphParameters,
        *,
        capacity: int = 1024,
        exponent: int = 0,
    ) -> None:
        """Makes an empty index.

        Args:
            dimension: of the vectors.
            metric: the metric.
            parameters: how it is built.
            capacity: points that there is room for at first.
            exponent: the library is given the vectors times two to this power (see `exponent_for`).
        """
        self._native = _native(dimension, metric)
        self._native.init_index(max(capacity, 1), parameters.links, parameters.build_width)
        self._start(metric, parameters, exponent)

    @classmethod
    def load(
        cls,
        file: Path,
        dimension: int,
        metric: Metric,
        parameters: GraphParameters,
        *,
        alive: np.ndarray,
        exponent: int = 0,
    ) -> HnswIndex:
        """Returns the index that `save` wrote. A damaged file can crash the process: check its digest first.

        Args:
            file: the file.
            dimension: of the vectors.
            metric: the metric.
            parameters: how it was built.
            alive: `[n] int64`, labels that a search may find, if the file has them; all others are removed.
            exponent: that it was built with.

        Raises:
            RuntimeError: the library can't read the file.
        """
        index = cls.__new__(cls)
        index._native = _native(dimension, metric)
        index._native.load_index(str(file), 0)
        # The file asks for as much room as there was when it was written, up to half more, at 45 bytes a point.
        index._native.resize_index(max(1, index._native.get_current_count()))
        index._start(metric, parameters, exponent)
        labels = index.labels()
        gone = labels[~np.isin(labels, alive)]
        index.remove(gone)
        index._dead = len(gone)  # the file keeps the marks but not their number
        return index

    def _start(self, metric: Metric, parameters: GraphParameters, exponent: int) -> None:
        self.metric = metric
        self.parameters = parameters
        self.exponent = exponent
        self._lock = ReadWriteLock()
        self._dead = 0
        # The width of a walk is max(ef, k), and ef is shared by all searches: with the lowest ef, every search sets its
        # own width by the number of neighbours it asks for.
        self._native.set_ef(1)

    def __len__(self) -> int:
        return self._native.get_current_count() - self._dead

    @property
    def dead(self) -> int:
        """How many points were removed and remain as stepping stones."""
        return self._dead

    def labels(self) -> np.ndarray:
        """Returns the labels of all points, removed ones too, `[n] int64`, rising."""
        with self._lock.read():
            return np.sort(np.array(self._native.get_ids_list(), np.int64))

    def add(self, labels: np.ndarray, vectors: np.ndarray) -> None:
        """Adds vectors under labels that are higher than any before."""
        if not len(labels):
            return
        if self.exponent:
            vectors = np.ldexp(vectors, self.exponent)
        with self._lock.write():
            count = self._native.get_current_count()
            needed, capacity = count + len(labels), self._native.get_max_elements()
            if needed > capacity:
                self._native.resize_index(max(needed, capacity * 3 // 2))
            alone = min(max(_FIRST_ALONE - count, 0), len(labels))
            if alone:
                self._native.add_items(vectors[:alone], labels[:alone], 1)
            if alone < len(labels):
                self._add(labels[alone:], vectors[alone:])

    def _add(self, labels: np.ndarray, vectors: np.ndarray) -> None:
        """Adds vectors with all threads."""
        threads = min(self.parameters.threads, max(1, len(labels) // _POINTS_PER_THREAD))
        share_work(
            lambda piece: self._native.add_items(vectors[piece], labels[piece], 1),
            _pieces(len(labels), threads),
            threads=threads,
        )

    def remove(self, labels: np.ndarray) -> None:
        """Removes vectors from every later search. Labels that the index does not have are ignored."""
        for first in range(0, len(labels), _REMOVED_AT_ONCE):
            with self._lock.write():
                for label in labels[first : first + _REMOVED_AT_ONCE].tolist():
                    try:
                        self._native.mark_deleted(label)
                    except RuntimeError:  # no such label, or removed already: 10 us
                        continue
                    self._dead += 1

    def search(self, queries: np.ndarray, width: int) -> np.ndarray:
        """Returns each query's nearest labels, `[n, min(width, len(self))] int64`, closest first, -1 for none found."""
        with self.reading() as reader:
            return reader.search(queries, width)

    @contextmanager
    def reading(self) -> Iterator[GraphReader]:
        """Keeps the graph unchanged for several searches, or for reading related state."""
        self._lock.acquire_read()
        try:
            yield GraphReader(self._native, self.metric, len(self), self.parameters.threads)
        finally:
            self._lock.release_read()

    def file_size(self) -> int:
        """Returns how many bytes `save` would write now."""
        with self._lock.read():
            return self._native.index_file_size()

    def save(self, file: Path) -> int:
        """Writes the index to a file and returns how many bytes the file must have.

        The library holds the interpreter lock meanwhile, so the file should be in memory. It does not notice a full
        disk and does not sync: the caller checks the size and makes the file durable.
        """
        with self._lock.read():
            self._native.save_index(str(file))
            return self._native.index_file_size()


class GraphReader:
    """Searches a graph that does not change meanwhile."""

    def __init__(self, native: _Native, metric: Metric, live: int, threads: int) -> None:
        self._native = native
        self._metric = metric
        self._live = live
        self._threads = threads

    def search(self, queries: np.ndarray, width: int) -> np.ndarray:
        """As `HnswIndex.search`."""
        width = min(width, self._live)
        if not width:
            return np.empty((len(queries), 0), np.int64)
        if self._metric is Metric.DOT:
            queries = of_length_1(queries)
        threads = min(self._threads, max(1, steps(len(queries), width) // STEPS_PER_THREAD))
        found = np.empty((len(queries), width), np.int64)

        def walk(piece: slice) -> None:
            found[piece] = self._walk(queries[piece], width)

        share_work(walk, _pieces(len(queries), threads), threads=threads)
        return found

    def _walk(self, queries: np.ndarray, width: int) -> np.ndarray:
        try:
            labels, _ = self._native.knn_query(queries, width, 1)
        except RuntimeError:
            # Fewer than `width` points can be reached from where one of the walks ended.
            return np.concatenate([self._search_one(query[None], width) for query in queries])
        return labels

    def _search_one(self, query: np.ndarray, width: int) -> np.ndarray:
        found = np.full((1, width), -1, np.int64)
        k = width
        while k:
            try:
                labels, _ = self._native.knn_query(query, k, 1)
            except RuntimeError:
                k //= 2
                continue
            found[:, :k] = labels
            break
        return found


def steps(walks: int, width: int) -> int:
    """Returns how long walks take together, in what one more of width takes."""
    return walks * (width + _STEPS_DOWN)


def exponent_for(metric: Metric, longest: float) -> int:
    """Returns the exponent for a graph of vectors of which the longest has this Euclidean norm."""
    if metric is not Metric.DOT or not longest:
        return 0
    return _LENGTH_EXPONENT - math.frexp(longest)[1]


def is_fit(exponent: int, metric: Metric, longest: float) -> bool:
    """Returns whether a graph of that exponent can hold such vectors: none overflows, and they are not all tiny."""
    return metric is not Metric.DOT or not longest or _SHORTEST <= math.ldexp(longest, exponent) <= _LONGEST


def of_length_1(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors at length 1, zeros as they are: what is nearest by the inner product is so for any length."""
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.vecdot(wide, wide))
    lengths[lengths == 0] = 1.0
    wide /= lengths[:, None]
    return wide.astype(np.float32)


def _pieces(count: int, pieces: int) -> Iterator[slice]:
    """Yields at most so many slices of equal lengths that cover a count, a shorter one last."""
    step = max(1, math.ceil(count / pieces))
    for first in range(0, count, step):
        yield slice(first, first + step)


def _native(dimension: int, metric: Metric) -> _Native:
    # "ip" on vectors of length 1 is the cosine.
    native: _Native = hnswlib.Index(space="l2" if metric is Metric.EUCLIDEAN else "ip", dim=dimension)
    return native
