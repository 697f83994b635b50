"""The times of every call of a run, all kept, so that percentiles are exact."""

from __future__ import annotations

import math
from array import array
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twinsight_client.bench.outcomes import ANSWERED
from twinsight_client.results import StageTimes

NONE = math.nan
"""A stage that did not take place, or that the server did not report."""
Column: TypeAlias = NDArray[np.float64]


class Record(NamedTuple):
    """One call. Times are seconds of one monotonic clock, stages milliseconds on the server.

    Attributes:
        number: number of the call in the run; with the run's name, its request id.
        due: when it should have been sent: fixed in advance in an open loop, `begun` in a closed one.
        begun: when it was sent.
        ended: when its response arrived.
        outcome: see `outcomes`.
        failed_items: pictures, pairs or queries of it that failed.
        decode_ms: see `StageTimes`.
        queue_ms: see `StageTimes`.
        compute_ms: see `StageTimes`.
        search_ms: see `StageTimes`.
        total_ms: see `StageTimes`.
    """

    number: float
    due: float
    begun: float
    ended: float
    outcome: float
    failed_items: float = 0
    decode_ms: float = NONE
    queue_ms: float = NONE
    compute_ms: float = NONE
    search_ms: float = NONE
    total_ms: float = NONE


_WIDTH = len(Record._fields)


class Recorder:
    """Collects records, 88 bytes per call.

    Attributes:
        count: calls so far.
    """

    def __init__(self) -> None:
        self._rows = array("d")
        self.count = 0

    def add(self, record: Record) -> None:
        """Adds one record."""
        self._rows.extend(record)
        self.count += 1

    def since(self, place: int) -> Records:
        """Returns a copy of the records from `place` on, in the order in which the calls ended."""
        return Records(np.array(self._rows[place * _WIDTH :], dtype=np.float64).reshape(-1, _WIDTH))


class Records:
    """Records as columns.

    Args:
        table: [calls, fields of `Record`] float64.
    """

    def __init__(self, table: NDArray[np.float64]) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Records:
        """Returns the calls for which `chosen` [calls] is true."""
        return Records(self._table[chosen])

    def column(self, name: str) -> Column:
        """Returns the field `name` of all calls, [calls] float64."""
        return self._table[:, Record._fields.index(name)]

    def answered(self) -> Records:
        """Returns the calls that were answered."""
        return self[self.column("outcome") == ANSWERED]

    def latencies_ms(self) -> Column:
        """Returns the milliseconds from when each call was due until it ended, [calls] float64."""
        return (self.column("ended") - self.column("due")) * 1e3


def stage_fields(times: StageTimes) -> tuple[float, float, float, float, float]:
    """Returns decode, queue, compute, search and total in milliseconds, as a `Record` takes them."""
    stages = (times.decode_ms, times.queue_ms, times.compute_ms, times.search_ms, times.total_ms)
    decode, queue, compute, search, total = (NONE if one is None else one for one in stages)
    return decode, queue, compute, search, total
