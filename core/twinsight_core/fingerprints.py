"""What tells equal vectors without the vectors."""

from __future__ import annotations

import numpy as np

_RECENT = 4096


class Fingerprints:
    """Fingerprints that have been seen. One thread at a time.

    All but the latest are a sorted array of 8 bytes each, where a set of Python's numbers takes nearly 100.
    """

    def __init__(self) -> None:
        self._settled = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._settled) + len(self._recent)

    def added(self, fingerprints: np.ndarray) -> np.ndarray:
        """Adds fingerprints `[n] uint64` and returns which are new, `[n] bool`; of equal ones the first."""
        fresh = np.zeros(len(fingerprints), np.bool_)
        places = np.searchsorted(self._settled, fingerprints)
        settled = np.zeros(len(fingerprints), np.bool_)
        inside = places < len(self._settled)
        settled[inside] = self._settled[places[inside]] == fingerprints[inside]
        for place in np.flatnonzero(~settled).tolist():
            fingerprint = int(fingerprints[place])
            fresh[place] = fingerprint not in self._recent
            self._recent.add(fingerprint)
        # Seldom enough that settling costs little, whatever is added at a time.
        if len(self._recent) > max(_RECENT, len(self._settled) // 16):
            self._settled = np.union1d(self._settled, np.fromiter(self._recent, np.uint64, len(self._recent)))
            self._recent = set()
        return fresh


def fingerprints_of(vectors: np.ndarray) -> np.ndarray:
    """Returns `[n] uint64`, equal for equal vectors `[n, dimension] float32`, and hardly ever for others."""
    factors = np.random.default_rng(0).integers(0, 2**64, vectors.shape[1], np.uint64) | np.uint64(1)
    mixed = np.empty(len(vectors), np.uint64)
    for first in range(0, len(vectors), 4096):
        words = vectors[first : first + 4096].view(np.uint32).astype(np.uint64)
        mixed[first : first + 4096] = np.vecdot(words, factors)  # modulo 2**64
    return mixed
