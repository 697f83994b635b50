"""Where the decoded pictures of a data set are kept: a large set in a file, so that it need not fit in memory.

The file has no name, is mapped, and is gone with the last array that shows it. It lies in the folder for temporary
files (`TMPDIR`). Where that is in memory (tmpfs), it takes the memory at once, and nothing is gained.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile

import numpy as np

_LOG = logging.getLogger(__name__)

# Larger arrays are mapped from a file: 7,000 pictures of 112 px, 1,700 of 224.
_MOST_IN_MEMORY = 256 * 2**20
_ROWS_AT_ONCE = 256


def empty_pixels(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array for pixels, of any content: uint8; in memory if it is small or there is no disk space for it.

    Args:
        shape: [count, height, width, 3].
    """
    size = math.prod(shape)
    if size <= _MOST_IN_MEMORY:
        return np.empty(shape, np.uint8)
    try:
        with tempfile.TemporaryFile(prefix="twinsight-") as file:
            # Taken now: once it is mapped, a full disk would end the process by a signal.
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except (OSError, AttributeError) as error:  # no room, or a system that can't reserve any
        _LOG.warning("keeping %.1f GiB of decoded pictures in memory, not in a file (%s)", size / 2**30, error)
        return np.empty(shape, np.uint8)


def pixels_of(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns a copy of some pictures, kept as `empty_pixels` does.

    Args:
        pixels: [count, height, width, 3] uint8.
        rows: [n] integer.
    """
    taken = empty_pixels((len(rows), *pixels.shape[1:]))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        taken[start : start + _ROWS_AT_ONCE] = pixels[rows[start : start + _ROWS_AT_ONCE]]
    return taken
