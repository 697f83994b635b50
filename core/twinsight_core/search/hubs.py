"""Determines whether a graph of inner products leads to the allowed rows.

Under the inner product the longest vectors are near to everything: nearly all links lead to them, and hardly any to
short ones. If the long ones were removed, or a filter leaves them out, a walk stays among them, however wide it is, and
finds little of the rest. With 30,000 x 64 vectors in clusters (log-normal lengths of sigma 0.3, 0.5 and 1), walked 384
wide, recall@10 was 0.955, 0.845 and 0.581 once the longest 19 % were removed. If as large a share of the long ones is
missing as of all, it hardly falls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from twinsight_core.index.base import Metric
from twinsight_core.index.exact import ExactView

# Of all rows, so many are looked at as the longest.
_SHARES = (0.01, 0.05)
# Of them so many must be left as are of all, but for this much, and for twice what chance makes of it.
_LEAST = 0.7
# Points of a graph that the rows know nothing of any more may be so many of all.
_MOST_FORGOTTEN = 0.02
# Of so few rows what is found out is chance; comparing with all of them is as fast as a walk.
_LEAST_ROWS = 1000
_GROWN = 1.25
# Of lengths: where those of nearly all differ less they are as good as equal, and the inner product as the cosine. Of
# 20,000 unit vectors 10 may be three times as long (recall@10 0.997); one that was ten times cost 0.035, and 18 0.11.
_EVEN, _NEARLY_ALL, _LONGER = 0.9, (0.01, 0.999), 2.0


def are_outgrown(seen: int, end: int) -> bool:
    """Returns whether a graph that covers the rows before `end` may well have other hubs than when it had `seen`."""
    return end > _GROWN * seen


@dataclass(frozen=True)
class Hubs:
    """The longest vectors of a graph.

    Attributes:
        end: they are those of the rows before this one.
        rows: for each of some shares of all the longest, `[m] int64`.
        forgotten: whether many points of the graph are of no row.
        stand_out: whether some are so much longer than nearly all that walks end among them.
    """

    end: int
    rows: tuple[np.ndarray, ...]
    forgotten: bool
    stand_out: bool

    @classmethod
    def of(cls, view: ExactView, end: int, points: int) -> Hubs | None:
        """Returns those of a graph that covers the rows before `end` and has `points`, removed ones too.

        Returns:
            None where there are none to be looked at: under other metrics, where nearly all are about as long as one
            another, and among few rows.
        """
        if view.metric is not Metric.DOT or end < _LEAST_ROWS:
            return None
        lengths = view.square_norms[:end]
        short, long = (int(share * (end - 1)) for share in _NEARLY_ALL)
        usual = np.partition(lengths, (short, long))
        stand_out = bool(usual[long:].max() > _LONGER**2 * usual[long])
        if usual[short] >= _EVEN**2 * usual[long] and not stand_out:
            return None
        counts = [int(share * end) for share in _SHARES]
        rows = tuple(np.argpartition(lengths, end - count)[end - count :] for count in counts)
        return cls(end, rows, points - end > _MOST_FORGOTTEN * end, stand_out)

    def lead_to(self, allowed: np.ndarray, available: int) -> bool:
        """Returns whether walks lead to the rows that may be found.

        Args:
            allowed: `[count] bool`, the rows that may be found.
            available: how many those are.
        """
        share = available / len(allowed)
        return not (self.forgotten or self.stand_out) and all(
            np.count_nonzero(allowed[rows])
            >= _LEAST * share * len(rows) - 2 * math.sqrt(share * (1.0 - share) * len(rows))
            for rows in self.rows
        )
