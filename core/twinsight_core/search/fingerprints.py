"""Detects equal vectors by fingerprints, without the vectors themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

MOST_EQUAL, MOST_ALIVE = 8, 4
"""Equal points that a graph may hold, and how many of them alive: a walk finds no way out of hundreds."""

_RECENT = 4096
# Of a fingerprint: how many points with it are in the graph, and times this how many of them are alive.
_ALIVE = 0x10


class Fingerprints:
    """Fingerprints of the vectors in a graph, those of removed points too. One thread at a time.

    Of equal vectors a few at a time are alive in a graph: when one is removed, another may come in, a few times.

    All but the latest are sorted arrays of 9 bytes each, where a dictionary of Python's numbers takes over 100.
    """

    def __init__(self) -> None:
        self._settled = np.empty(0, np.uint64)
        self._states = np.empty(0, np.uint8)
        self._recent: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._settled) + len(self._recent)

    def added(self, fingerprints: np.ndarray) -> np.ndarray:
        """Adds fingerprints `[n] uint64` of vectors that are candidates for the graph.

        Returns:
            Which may be added, `[n] bool`: the first of equal ones, until as many are there, or alive, as allowed.
        """
        fresh = np.zeros(len(fingerprints), np.bool_)
        for number, (key, place, state) in enumerate(self._states_of(fingerprints)):
            if state // _ALIVE < MOST_ALIVE and state % _ALIVE < MOST_EQUAL:
                fresh[number] = True
                self._put(key, place, state + _ALIVE + 1)
        self._settle()
        return fresh

    def restored(self, fingerprints: np.ndarray, *, has_dead: bool) -> None:
        """Adds points that are alive in a graph.

        Args:
            fingerprints: `[n] uint64`.
            has_dead: whether points were removed from it, it is not known which: then one more of each may come in.
        """
        for key, place, state in self._states_of(fingerprints):
            total = MOST_EQUAL - 1 if has_dead else min(state % _ALIVE + 1, MOST_EQUAL)
            self._put(key, place, min(state // _ALIVE + 1, MOST_EQUAL) * _ALIVE + total)
        self._settle()

    def removed(self, fingerprints: np.ndarray) -> None:
        """Records that the points of fingerprints `[n] uint64` are removed from the graph."""
        for key, place, state in self._states_of(fingerprints):
            if state >= _ALIVE:
                self._put(key, place, state - _ALIVE)

    def _states_of(self, fingerprints: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Yields each fingerprint, its place among the settled or -1, and its state as it is then."""
        places, settled = self._places(fingerprints)
        places[~settled] = -1
        for key, place in zip(fingerprints.tolist(), places.tolist(), strict=True):
            yield key, place, int(self._states[place]) if place >= 0 else self._recent.get(key, 0)

    def _put(self, key: int, place: int, state: int) -> None:
        if place >= 0:
            self._states[place] = state
        else:
            self._recent[key] = state

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
