"""The seam between the engine and what computes a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Executor(Protocol):
    """Computes batches of fixed sizes with one model. Called from one thread at a time."""

    @property
    def name(self) -> str:
        """Short name for logs and metrics, such as `xla:cpu:f32`."""
        ...

    @property
    def on_host(self) -> bool:
        """Whether it computes on the cores that decode pictures, too."""
        ...

    def lanes(self) -> Sequence[Executor]:
        """Returns what computes several batches at the same time, each in a thread of its own.

        Together they have what this executor has alone: a core each, a device each, or one device that is given the
        next batch while it computes the last. They are prepared apart from it, and give the same answers.
        """
        ...

    def prepare(self, *batch_sizes: int) -> None:
        """Makes ready to compute batches of these sizes without compiling later."""
        ...

    def compute(self, images: np.ndarray) -> np.ndarray:
        """Runs the model on one batch.

        Args:
            images: [batch, height, width, 3] uint8, RGB, 0..255; `batch` has been prepared.

        Returns:
            [batch, *answer] float32, the model's answer for each picture.

        Raises:
            KeyError: this batch size was not prepared.
        """
        ...
