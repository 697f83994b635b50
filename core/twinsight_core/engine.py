"""Any number of pictures in, their outputs out, without ever compiling during a request.

XLA compiles for fixed shapes, and other executors are fastest with them. The engine owns a sorted list of batch sizes
("buckets"), prepares each at start, and serves a batch of any size with them: full buckets first, then the smallest
that holds the rest, padded with zeros.

1. `warm_up` prepares every bucket and runs each once, before the server reports SERVING.
2. `lane` returns a function that computes on one of the executor's lanes, several of which work at the same time;
   `infer_alone` gives one picture the whole executor.
3. The pictures are split into buckets and the last is padded.
4. The executor makes one transfer in, the compiled call, one transfer out.
5. The padding's rows are cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np

from twinsight_core.executors.base import Executor
from twinsight_core.host.cores import usable_cores
from twinsight_core.images import Preprocessing

DEFAULT_BUCKETS = (1, 2, 4, 8, 16, 32)
"""Doubling wastes at most half of a batch on padding."""


class Engine:
    """Serves one model. Each lane, and `infer_alone`, is called from one thread at a time; the batcher ensures that."""

    def __init__(
        self,
        executor: Executor,
        preprocessing: Preprocessing,
        *,
        answer_shape: tuple[int, ...],
        buckets: Sequence[int] = DEFAULT_BUCKETS,
        most_on_host: int | None = None,
    ) -> None:
        """Takes the executor; prepares nothing yet.

        Args:
            executor: computes one bucket.
            preprocessing: shape of a picture.
            answer_shape: shape of the output for one picture.
            buckets: batch sizes, ascending, each at least 1.
            most_on_host: largest bucket of an executor on the host; None for no limit.

        Raises:
            ValueError: `buckets` is empty or not ascending.
        """
        if not buckets or buckets[0] < 1 or any(a >= b for a, b in pairwise(buckets)):
            raise ValueError(f"`buckets` (={tuple(buckets)}) must be ascending and at least 1.")
        self.preprocessing = preprocessing
        self.answer_shape = answer_shape
        self._buckets = tuple(buckets)
        self._most_on_host = most_on_host
        self._executor = executor

    @property
    def executor_name(self) -> str:
        """Name of the executor."""
        return self._executor.name

    @property
    def on_host(self) -> bool:
        """Whether it computes on the cores that also decode pictures."""
        return self._executor.on_host

    @property
    def has_lane_per_core(self) -> bool:
        """Whether there is a lane for each usable core, and each computes in its caller's thread alone.

        Where a quota allows fewer than the machine has, the kernel knows better than this process which cores are free.
        """
        return self.lanes >= len(usable_cores()) and all(lane.is_single_threaded for lane in self._lanes)

    @cached_property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes."""
        most = self._most_on_host
        if most is None or not self.on_host:
            return self._buckets
        return tuple(one for one in self._buckets if one <= most) or self._buckets[:1]

    @property
    def max_batch(self) -> int:
        """The largest bucket."""
        return self.buckets[-1]

    @property
    def lanes(self) -> int:
        """How many batches are computed at the same time."""
        return len(self._lanes)

    def warm_up(self) -> None:
        """Prepares every bucket and runs it once: the first call of a program allocates its buffers."""
        for lane in dict.fromkeys(self._lanes):  # one executor may be two lanes
            lane.prepare(*self.buckets)
            for bucket in self.buckets:
                lane.compute(self._blank(bucket))
        self._executor.prepare(1)
        self._executor.compute(self._blank(1))

    def lane(self, number: int) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        """Returns a function that runs the model on a lane's current executor, even after a later `renew`.

        Args:
            number: 0 to `lanes` - 1.

        Returns:
            Takes n of [height, width, 3] uint8, RGB, 0..255; returns [n, *answer_shape] float32, in order.
        """
        executor = self._lanes[number]
        return lambda images: self._infer(images, executor)

    def renew(self, lane: int) -> None:
        """Takes a lane's executor from `Executor.lanes` again and prepares it, after a call on the lane hung.

        OpenVINO makes a new executor, and the one that hangs is abandoned. XLA returns the same executor, which is
        prepared already: the next call on the lane runs in it beside the one that hangs.
        """
        fresh = self._executor.lanes()[lane]
        fresh.prepare(*self.buckets)
        self._lanes[lane] = fresh

    def infer_alone(self, image: np.ndarray) -> np.ndarray:
        """Runs the model on one picture with the whole executor; for when there is nothing else to compute.

        Args:
            image: [height, width, 3] uint8, RGB, 0..255.

        Returns:
            [*answer_shape] float32.
        """
        answer: np.ndarray = self._computed(image[None], self._executor)[0]
        return answer

    @cached_property
    def _lanes(self) -> list[Executor]:
        return list(self._executor.lanes())

    def _infer(self, images: Sequence[np.ndarray], executor: Executor) -> np.ndarray:
        answers = np.empty((len(images), *self.answer_shape), np.float32)
        for start, count, bucket in self._cuts(len(images)):
            batch = self._blank(bucket)
            np.stack(images[start : start + count], out=batch[:count])
            answers[start : start + count] = self._computed(batch, executor)[:count]
        return answers

    @staticmethod
    def _computed(batch: np.ndarray, executor: Executor) -> np.ndarray:
        """Computes one batch; every picture is served by this method."""
        return executor.compute(batch)

    def _cuts(self, total: int) -> Iterator[tuple[int, int, int]]:
        """Yields start, number of pictures and bucket of each piece."""
        start = 0
        while start < total:
            count = min(total - start, self.max_batch)
            yield start, count, next(bucket for bucket in self.buckets if bucket >= count)
            start += count

    def _blank(self, bucket: int) -> np.ndarray:
        return np.zeros((bucket, self.preprocessing.height_px, self.preprocessing.width_px, 3), np.uint8)
