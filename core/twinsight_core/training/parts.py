"""The parts that training on class folders holds out, and the input of one of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Parts:
    """Rows of the pictures in each part; no picture is in two.

    Attributes:
        train: [count] int64, rising; to learn from.
        validation: [count] int64, rising; to choose the weights by.
        test: [count] int64, rising; for the scores.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class LabelledBatch(NamedTuple):
    """The input of one step.

    Attributes:
        images: [batch, height, width, 3] uint8, RGB, 0..255.
        labels: [batch] int32.
    """

    images: np.ndarray
    labels: np.ndarray
