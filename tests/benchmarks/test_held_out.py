"""The pictures that shipped models are measured on."""

from __future__ import annotations

import numpy as np
from benchmarks.held_out import evenly


def test_rows_are_taken_evenly_with_both_ends() -> None:
    np.testing.assert_array_equal(evenly(np.arange(10, 21), 3), [10, 15, 20])


def test_all_rows_are_taken_where_there_are_no_more_or_no_number_is_given() -> None:
    rows = np.array([2, 3, 5])
    np.testing.assert_array_equal(evenly(rows, 3), rows)
    np.testing.assert_array_equal(evenly(rows, None), rows)


def test_no_rows_are_taken_where_none_are_wanted() -> None:
    assert evenly(np.arange(5), 0).size == 0
