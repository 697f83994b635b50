"""Draws distinct random pairs of pictures, of one class or of two."""

from __future__ import annotations

import numpy as np


def drawn_pairs(
    labels: np.ndarray, groups: np.ndarray, *, same: bool, each: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns up to `each` distinct pairs, drawn evenly from all there are, [count, 2] int64, the lower row first.

    Args:
        labels: [count] integer, class of each picture.
        groups: [count] integer; both pictures of a pair are of one.
        same: whether the pairs are of one class, or of two.
        each: how many are wanted.
        rng: draws them.
    """
    # With the pictures of a group together, and in it those of a class, the partners of each one that come after it lie
    # together: up to the end of its class, or from there to the end of its group.
    order = np.lexsort((labels, groups))
    place = np.arange(len(order))
    of_group, of_class = groups[order], labels[order]
    group_ends = _ends(of_group[1:] != of_group[:-1])
    class_ends = _ends((of_group[1:] != of_group[:-1]) | (of_class[1:] != of_class[:-1]))
    first, end = (place + 1, class_ends) if same else (class_ends, group_ends)
    until = np.cumsum(end - first)
    count = int(until[-1]) if len(until) else 0
    chosen = np.empty(0, np.int64)
    if count:
        chosen = np.sort(rng.choice(count, min(each, count), replace=False, shuffle=False))
    left = np.searchsorted(until, chosen, side="right")
    right = end[left] - (until[left] - chosen)
    return np.sort(np.stack([order[left], order[right]], axis=1), axis=1)


def _ends(changes: np.ndarray) -> np.ndarray:
    """Returns where the run that each place is in ends, [count] int64; `changes`: after which places one does."""
    ends = np.append(np.flatnonzero(changes), len(changes)) + 1
    return np.repeat(ends, np.diff(ends, prepend=0))
