"""Any number of pictures in, their answers out, without ever compiling in a request.

XLA compiles for fixed shapes. The engine owns a sorted list of batch sizes ("buckets"), has each prepared at start, and
serves a batch of any size with them: full buckets first, then the smallest that holds the rest, padded with zeros.

1. `warm_up` prepares every bucket and runs each once, before the server says SERVING.
2. `infer` cuts the pictures into buckets and pads the last.
3. The executor makes one transfer in, the compiled call, one transfer out.
4. The padding's rows are cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from twinsight_core.executors.base import Executor
from twinsight_core.images import Preprocessing

DEFAULT_BUCKETS = (1, 2, 4, 8, 16, 32)
"""Doubling wastes at most half of a batch on padding; above 32 throughput no longer rises on the CPUs measured."""


class Engine:
    """Serves one model. `infer` may be called from one thread at a time; the batcher sees to it."""

    def __init__(
        self,
        executor: Executor,
        preprocessing: Preprocessing,
        *,
        answer_shape: tuple[int, ...],
        buckets: Sequence[int] = DEFAULT_BUCKETS,
    ) -> None:
        """Takes the executor; prepares nothing yet.

        Args:
            executor: computes one bucket.
            preprocessing: shape of a picture.
            answer_shape: shape of the answer for one picture.
            buckets: batch sizes, ascending, each at least 1.

        Raises:
            ValueError: `buckets` is empty or not ascending.
        """
        if not buckets or buckets[0] < 1 or any(a >= b for a, b in pairwise(buckets)):
            raise ValueError(f"`buckets` (={tuple(buckets)}) must be ascending and at least 1.")
        self.preprocessing = preprocessing
        self.answer_shape = answer_shape
        self.buckets = tuple(buckets)
        self._executor = executor

    @property
    def executor_name(self) -> str:
        """What computes the batches."""
        return self._executor.name

    @property
    def max_batch(self) -> int:
        """The largest bucket."""
        return self.buckets[-1]

    def warm_up(self) -> None:
        """Prepares every bucket and runs it once: the first call of a program allocates its buffers."""
        for bucket in self.buckets:
            self._executor.prepare(bucket)
            self._executor.compute(self._blank(bucket))

    def infer(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Runs the model on pictures.

        Args:
            images: n of [height, width, 3] uint8, RGB, 0..255.

        Returns:
            [n, *answer_shape] float32, in order.
        """
        answers = np.empty((len(images), *self.answer_shape), np.float32)
        for start, count, bucket in self._cuts(len(images)):
            batch = self._blank(bucket)
            np.stack(images[start : start + count], out=batch[:count])
            answers[start : start + count] = self._executor.compute(batch)[:count]
        return answers

    def _cuts(self, total: int) -> Iterator[tuple[int, int, int]]:
        """Start, number of pictures and bucket of each piece."""
        start = 0
        while start < total:
            count = min(total - start, self.max_batch)
            yield start, count, next(bucket for bucket in self.buckets if bucket >= count)
            start += count

    def _blank(self, bucket: int) -> np.ndarray:
        return np.zeros((bucket, self.preprocessing.height_px, self.preprocessing.width_px, 3), np.uint8)
