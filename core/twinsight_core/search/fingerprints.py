"""What tells equal vectors without the vectors."""

from __future__ import annotations

import numpy as np

MOST_EQUAL = 8
"""Points of a graph that may be equal: of hundreds a walk finds no way out."""

_RECENT = 4096
# Of a fingerprint: points with it in the graph, of which the last may be alive.
_LIVE = 0x80


class Fingerprints:
    """Fingerprints of the vectors in a graph, those of removed points too. One thread at a time.

    Of equal vectors one at a time is alive in a graph: when it is removed, another may come in, a few times.

    All but the latest are sorted arrays of 9 bytes each, where a dictionary of Python's numbers takes over 100.

    Args:
        most_equal: points that may be equal.
    """

    def __init__(self, *, most_equal: int = MOST_EQUAL) -> None:
        self._most_equal = most_equal
        self._settled = np.empty(0, np.uint64)
        self._states = np.empty(0, np.uint8)
        self._recent: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._settled) + len(self._recent)

    def added(self, fingerprints: np.ndarray) -> np.ndarray:
        """Adds fingerprints `[n] uint64` of vectors that may come into the graph.

        Returns:
            Which may, `[n] bool`: of equal ones the first, unless one is alive there already, or as many are as may be.
        """
        fresh = np.zeros(len(fingerprints), np.bool_)
        places, settled = self._places(fingerprints)
        known = zip(fingerprints.tolist(), places.tolist(), settled.tolist(), strict=True)
        for number, (key, place, is_settled) in enumerate(known):
            state = int(self._states[place]) if is_settled else self._recent.get(key, 0)
            if state & _LIVE or state >= self._most_equal:
                continue
            fresh[number] = True
            state = (state + 1) | _LIVE
            if is_settled:
                self._states[place] = state
            else:
                self._recent[key] = state
        self._settle()
        return fresh

    def removed(self, fingerprints: np.ndarray) -> None:
        """Says that the points of fingerprints `[n] uint64` are removed from the graph."""
        places, settled = self._places(fingerprints)
        self._states[places[settled]] &= _LIVE - 1
        for key in fingerprints[~settled].tolist():
            if key in self._recent:
                self._recent[key] &= _LIVE - 1

    def _places(self, fingerprints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns where fingerprints are settled, `[n] int64`, and which are, `[n] bool`."""
        places = np.searchsorted(self._settled, fingerprints)
        settled = places < len(self._settled)
        settled[settled] = self._settled[places[settled]] == fingerprints[settled]
        return places, settled

    def _settle(self) -> None:
        # Seldom enough that settling costs little, whatever is added at a time.
        if len(self._recent) <= max(_RECENT, len(self._settled) // 16):
            return
        keys = np.concatenate([self._settled, np.fromiter(self._recent, np.uint64, len(self._recent))])
        states = np.concatenate([self._states, np.fromiter(self._recent.values(), np.uint8, len(self._recent))])
        order = np.argsort(keys)
        self._settled, self._states, self._recent = keys[order], states[order], {}


def fingerprints_of(vectors: np.ndarray) -> np.ndarray:
    """Returns `[n] uint64`, equal for equal vectors `[n, dimension] float32`, and hardly ever for others."""
    factors = np.random.default_rng(0).integers(0, 2**64, vectors.shape[1], np.uint64) | np.uint64(1)
    mixed = np.empty(len(vectors), np.uint64)
    for first in range(0, len(vectors), 4096):
        words = vectors[first : first + 4096].view(np.uint32).astype(np.uint64)
        mixed[first : first + 4096] = np.vecdot(words, factors)  # modulo 2**64
    return mixed
