"""Exact search on an accelerator: bfloat16 preselects there with an error margin, float64 decides here.

1. The vectors are copied to the device in blocks of fixed shape, rounded to bfloat16: half the bytes to read, and what
   a search takes is the time to read them. A thread of its own does that, some thousand rows at a time, and first
   compiles every shape: neither a write nor a search waits for it, and the rows that are not there yet are searched on
   the host.
2. A search multiplies the queries with each block and takes the best rows of each: of every 128 scores the largest, the
   best of these groups, and of their rows the best. The best k rows lie in the best k groups, so nothing is lost.
3. Rounding can have moved a score by a bounded amount. If every row that could be among the k nearest came back, they
   are scored in float64; if not, the search is done again on the host.
4. If the device fails, for lack of memory, say, the host takes over: the copy is dropped for good, and that is logged.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from twinsight_core.host.compilation import begin_compiling
from twinsight_core.host.cores import use_all_cores
from twinsight_core.index.base import Metric

_LOG = logging.getLogger(__name__)

LEAST_ROWS = 50_000
"""Fewer are searched on the host in no more time than the way to the device and back takes."""
STEP_ROWS = 16_384
"""The copy is extended when so many are missing."""
BLOCK_BYTES = 64 << 20
_GROUP = 128
_QUERIES = (1, 8, 64)
_CHOSEN = (64, 512)
"""Numbers of queries, and of rows that come back of a block, that are compiled. Fewer take the next larger one; more
queries are parted, and more than half the rows are asked of the host."""
_LONGEST = 1e15  # beyond it products may leave the range of float32


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the device found: rows with their rough scores, and how rough they are.

    Attributes:
        rows: `[n, m] int64`; -1 where there is none.
        coarse: `[n, m] float32`, rise with the scores; minus infinity where there is no row.
        beyond: `[n] float32`, no other row's rough score among the first `count` is higher.
        slack: `[n] float64`: twice the error of a rough score.
        count: rows that were looked at, from the first on.
    """

    rows: np.ndarray
    coarse: np.ndarray
    beyond: np.ndarray
    slack: np.ndarray
    count: int


@dataclass(frozen=True, slots=True)
class _Masks:
    """Which rows may be found, on the device.

    Attributes:
        allowed: what they were made of.
        count: rows of the view.
        blocks: `[block rows] bool` of each block.
    """

    allowed: np.ndarray | None
    count: int
    blocks: tuple[jax.Array, ...]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The copy at one moment.

    Attributes:
        vectors: `[block rows, dimension] bfloat16` of each block.
        square_norms: `[block rows] float32` of each, zeros but under the Euclidean metric.
        count: rows that are there.
        lost: no vector lost more than this by rounding, a Euclidean norm.
    """

    vectors: tuple[jax.Array, ...] = ()
    square_norms: tuple[jax.Array, ...] = ()
    count: int = 0
    lost: float = 0.0


class DeviceCopy:
    """A copy of an exact index's rows on JAX's first device. Every method may be called from any thread.

    Args:
        dimension: of the vectors.
        metric: the metric.
        block_rows: rows of a block, a multiple of 128; None: as many as have 64 MiB.
        least_rows: the copy is begun when there are so many.
        step_rows: it is extended when so many are missing.
    """

    def __init__(
        self,
        dimension: int,
        metric: Metric,
        *,
        block_rows: int | None = None,
        least_rows: int = LEAST_ROWS,
        step_rows: int = STEP_ROWS,
    ) -> None:
        begin_compiling()
        self._dimension = dimension
        self._metric = metric
        self._block_rows = block_rows or max(_GROUP, BLOCK_BYTES // (2 * dimension) // _GROUP * _GROUP)
        self._step_rows = step_rows
        self._lock = threading.Lock()
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="device-copy", initializer=use_all_cores)
        self._copying = False
        self._refused = False
        self._blocks = _Blocks()
        self._masks: _Masks | None = None
        self.least_rows = least_rows

    def extend(self, vectors: np.ndarray, square_norms: np.ndarray) -> None:
        """Starts copying the missing rows if there are enough of them; does not wait.

        Args:
            vectors: `[count, dimension] float32`, all rows so far; they do not change any more.
            square_norms: `[count] float32`; empty under cosine.
        """
        missing = len(vectors) - self._blocks.count
        with self._lock:
            if self._refused or self._copying or len(vectors) < self.least_rows or missing < self._step_rows:
                return
            self._copying = True
        try:
            self._copier.submit(self._copy, vectors, square_norms)
        except RuntimeError:  # no thread can be started: later rows try again, and the host searches until then
            self._copying = False

    def wait_copied(self) -> None:
        """Waits until the copying that `extend` started is done; for tests and benchmarks."""
        self._copier.submit(lambda: None).result()

    def choose(
        self, queries: np.ndarray, k: int, *, count: int, allowed: np.ndarray | None, longest: float, kept: bool
    ) -> Chosen | None:
        """Returns the rows that may be the nearest, or None if the host should do this search.

        Args:
            queries: `[n, dimension] float32`, prepared.
            k: how many rows are wanted.
            count: rows of the view that is searched.
            allowed: `[count] bool`, rows that may be found; None: all.
            longest: no vector's Euclidean norm is greater.
            kept: whether further searches will come with the same `allowed`.
        """
        blocks = self._blocks
        fetched = next((one for one in self._sizes if one >= 2 * k), None)
        looked_at = min(count, blocks.count)
        if longest > _LONGEST or not looked_at or fetched is None:
            return None
        rounded = queries.astype(jnp.bfloat16)
        try:
            masks = self._block_masks(looked_at, allowed, kept=kept)
            parts = [
                self._chosen(blocks, masks, rounded[first : first + _QUERIES[-1]], fetched)
                for first in range(0, len(queries), _QUERIES[-1])
            ]
        except jax.errors.JaxRuntimeError as error:
            self._let_go(error)
            return None
        rows, coarse, beyond = (np.concatenate(one) for one in zip(*parts, strict=True))
        return Chosen(rows, coarse, beyond, self._slack(queries, rounded, blocks.lost, longest), looked_at)

    def _copy(self, vectors: np.ndarray, square_norms: np.ndarray) -> None:
        try:
            self._prepare()
            while self._blocks.count < len(vectors):
                more = self._with_more(vectors, square_norms)
                with self._lock:
                    if self._refused:  # by a search, meanwhile
                        return
                    self._blocks = more
        except jax.errors.JaxRuntimeError as error:
            self._let_go(error)
        finally:
            self._copying = False

    def _let_go(self, error: Exception) -> None:
        with self._lock:
            self._refused = True
            self._blocks, self._masks = _Blocks(), None
        _LOG.warning("exact search continues without the accelerator, which failed: %s", error)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(one for one in _CHOSEN if one <= self._block_rows // _GROUP)

    def _prepare(self) -> None:
        for queries in _QUERIES:
            for fetched in self._sizes:
                _compiled(self._block_rows, self._dimension, self._metric, queries, fetched)

    def _with_more(self, vectors: np.ndarray, square_norms: np.ndarray) -> _Blocks:
        """Returns the copy with the rows of one more block, or with those that fill the last one up."""
        blocks = self._blocks
        number, kept = divmod(blocks.count, self._block_rows)
        first = number * self._block_rows
        part = vectors[first : first + self._block_rows]
        rounded = np.zeros((self._block_rows, self._dimension), jnp.bfloat16)
        rounded[: len(part)] = part
        norms = np.zeros(self._block_rows, np.float32)
        if self._metric is Metric.EUCLIDEAN:
            norms[: len(part)] = square_norms[first : first + len(part)]
        residual = part[kept:] - rounded[kept : len(part)].astype(np.float32)
        lost = float(np.sqrt(np.vecdot(residual, residual, dtype=np.float64).max()))
        return _Blocks(
            vectors=(*blocks.vectors[:number], jax.device_put(rounded)),
            square_norms=(*blocks.square_norms[:number], jax.device_put(norms)),
            count=first + len(part),
            lost=max(blocks.lost, lost),
        )

    def _chosen(
        self, blocks: _Blocks, masks: tuple[jax.Array, ...], queries: np.ndarray, fetched: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns rows, rough scores and what is beyond, for at most 64 queries `[n, dimension] bfloat16`."""
        size = next(one for one in _QUERIES if one >= len(queries))
        padded = jax.device_put(
            np.concatenate([queries, np.zeros((size - len(queries), *queries.shape[1:]), queries.dtype)])
        )
        asked = self._asked(blocks, masks, padded, fetched)
        answers = [(values[: len(queries)], places[: len(queries)]) for values, places in jax.device_get(asked)]
        coarse = np.concatenate([values for values, _ in answers], axis=1)
        rows = np.concatenate(
            [places.astype(np.int64) + n * self._block_rows for n, (_, places) in enumerate(answers)], axis=1
        )
        rows[coarse == -np.inf] = -1
        return rows, coarse, np.max([values[:, -1] for values, _ in answers], axis=0)

    def _asked(
        self, blocks: _Blocks, masks: tuple[jax.Array, ...], queries: jax.Array, fetched: int
    ) -> list[tuple[jax.Array, jax.Array]]:
        """Returns the answers of `_best` for each block; all are under way before the first is waited for."""
        run = _compiled(self._block_rows, self._dimension, self._metric, len(queries), fetched)
        return [
            run(vectors, norms, mask, queries)
            for vectors, norms, mask in zip(blocks.vectors, blocks.square_norms, masks, strict=False)
        ]

    def _block_masks(self, count: int, allowed: np.ndarray | None, *, kept: bool) -> tuple[jax.Array, ...]:
        """Returns which rows of each block may be found, `[block rows] bool`."""
        known = self._masks
        if known is not None and known.allowed is allowed and known.count == count:
            return known.blocks
        size = -(-count // self._block_rows) * self._block_rows
        mask = np.zeros(size, np.bool_)
        mask[:count] = True if allowed is None else allowed[:count]
        blocks = tuple(jax.device_put(one) for one in mask.reshape(-1, self._block_rows))
        if kept:
            self._masks = _Masks(allowed, count, blocks)
        return blocks

    def _slack(self, queries: np.ndarray, rounded: np.ndarray, lost: float, longest: float) -> np.ndarray:
        """Returns `[n] float64`: twice the error of a rough score.

        With x' and q' for the rounded x and q, |x.q - x'.q'| <= |x - x'| |q| + |x'| |q - q'|; beside it comes the error
        of the sum in float32 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 3.5).
        """
        wide = queries.astype(np.float64)
        left = wide - rounded.astype(np.float64)
        lengths, lost_lengths = np.sqrt(np.vecdot(wide, wide)), np.sqrt(np.vecdot(left, left))
        relative = (self._dimension + 16) * 2.0**-24
        most = longest + lost
        error = lost * lengths + most * lost_lengths + relative * most * (lengths + lost_lengths)
        if self._metric is Metric.EUCLIDEAN:
            # And distances that float32 rounds alike: their squares have the query's own in them.
            error = 2.0 * error + 2.0**-22 * (most + lengths) ** 2
        twice: np.ndarray = 2.0 * error
        return twice


@cache
def _compiled(block_rows: int, dimension: int, metric: Metric, queries: int, fetched: int) -> jax.stages.Compiled:
    """Returns the search of one block for fixed shapes."""
    shapes = [((block_rows, dimension), jnp.bfloat16), ((block_rows,), jnp.float32), ((block_rows,), jnp.bool_)]
    shapes.append(((queries, dimension), jnp.bfloat16))
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    return jax.jit(partial(_best, fetched=fetched, euclidean=metric is Metric.EUCLIDEAN)).lower(*arrays).compile()


def _best(
    vectors: jax.Array, square_norms: jax.Array, mask: jax.Array, queries: jax.Array, *, fetched: int, euclidean: bool
) -> tuple[jax.Array, jax.Array]:
    """Returns each query's best rows of a block: rough scores, `[n, fetched]`, falling, and `[n, fetched] int32`."""
    rough = jnp.einsum("nd,md->nm", queries, vectors, preferred_element_type=jnp.float32)
    if euclidean:
        # Minus the squared distance, but for a term that depends on the query alone.
        rough = 2.0 * rough - square_norms
    grouped = jnp.where(mask, rough, -jnp.inf).reshape(len(queries), -1, _GROUP)
    _, groups = jax.lax.top_k(grouped.max(axis=-1), fetched)
    among = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(len(queries), -1)
    values, places = jax.lax.top_k(among, fetched)
    rows = jnp.take_along_axis(groups, places // _GROUP, axis=1) * _GROUP + places % _GROUP
    return values, rows
