"""The interface between the engine and the runtimes that compute a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Executor(Protocol):
    """Computes batches of fixed sizes with one model.

    `compute` is called from as many threads at a time as `lanes` lists the executor, usually one. `Engine.renew` asks
    for `lanes` again after a call hung; an executor that is listed again is then called beside the call that hangs.
    """

    @property
    def name(self) -> str:
        """Short name for logs and metrics, such as `xla:cpu:f32`."""
        ...

    @property
    def on_host(self) -> bool:
        """Whether it computes on the cores that also decode pictures."""
        ...

    @property
    def is_single_threaded(self) -> bool:
        """Whether `compute` does all of its work in its caller's thread."""
        ...

    def lanes(self) -> Sequence[Executor]:
        """Returns the executors that compute several batches at the same time, each in a thread of its own.

        Together they use what this executor uses alone: a core each, a device each, or one device that gets the next
        batch while it computes the last; that one is listed more than once. Each is prepared on its own, and all give
        the same outputs.
        """
        ...

    def prepare(self, *batch_sizes: int) -> None:
        """Prepares to compute batches of these sizes without compiling later."""
        ...

    def compute(self, images: np.ndarray) -> np.ndarray:
        """Runs the model on one batch.

        Args:
            images: [batch, height, width, 3] uint8, RGB, 0..255; `batch` has been prepared.

        Returns:
            [batch, *answer] float32, the model's output for each picture.

        Raises:
            KeyError: this batch size was not prepared.
        """
        ...
