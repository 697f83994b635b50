from __future__ import annotations

from itertools import permutations

import pytest
from benchmarks.torture.linearizability import ABSENT, Kind, Operation, first_impossible
from hypothesis import given
from hypothesis import strategies as st


def _put(called: int, answered: int | None, version: int) -> Operation:
    return Operation(called, answered, Kind.PUT, version)


def _read(called: int, answered: int, version: int) -> Operation:
    return Operation(called, answered, Kind.READ, version)


def _delete(called: int, answered: int | None, there: int) -> Operation:
    return Operation(called, answered, Kind.DELETE, there)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [_read(1, 2, ABSENT)],
        [_put(1, 2, 1), _read(3, 4, 1)],
        [_put(1, 4, 1), _read(2, 3, ABSENT)],  # read before it was written
        [_put(1, 4, 1), _read(2, 3, 1)],
        [_put(1, 6, 1), _put(2, 5, 2), _read(3, 4, 2), _read(7, 8, 1)],
        [_put(1, 2, 1), _delete(3, 4, 1), _delete(5, 6, ABSENT), _read(7, 8, ABSENT)],
        [_put(1, 2, 1), _delete(3, 6, 1), _delete(4, 5, ABSENT)],
        [_put(1, None, 1), _read(9, 10, ABSENT), _read(11, 12, 1)],  # never answered: done late
        [_put(1, None, 1), _read(9, 10, ABSENT)],  # or never
    ],
)
def test_what_some_order_explains_is_linearizable(history: list[Operation]) -> None:
    assert first_impossible(history) is None


@pytest.mark.parametrize(
    ("history", "impossible"),
    [
        ([_read(1, 2, 1)], 0),
        ([_put(1, 2, 1), _read(3, 4, ABSENT)], 1),  # a lost write
        ([_put(1, 2, 1), _put(3, 4, 2), _read(5, 6, 1)], 2),  # a stale read
        ([_put(1, 2, 1), _delete(3, 4, 1), _read(5, 6, 1)], 2),  # a deleted item is back
        ([_put(1, 2, 1), _delete(3, 6, 1), _delete(4, 5, 1)], 1),  # both were told that it was there
        ([_put(1, 9, 1), _read(2, 3, 1), _read(4, 5, ABSENT)], 2),  # seen, and then not
        ([_put(1, None, 1), _read(2, 3, 1), _read(4, 5, ABSENT)], 2),
    ],
)
def test_what_no_order_explains_is_not(history: list[Operation], impossible: int) -> None:
    assert first_impossible(history) == history[impossible]


@st.composite
def _histories(draw: st.DrawFn) -> list[Operation]:
    made = []
    for number in range(draw(st.integers(1, 6))):
        called = draw(st.integers(0, 8))
        kind = draw(st.sampled_from(Kind))
        version = number + 1 if kind is Kind.PUT else draw(st.integers(0, 4))
        made.append(Operation(called, called + draw(st.integers(0, 5)), kind, version))
    return made


@given(_histories())
def test_the_verdict_is_that_of_trying_all_orders(history: list[Operation]) -> None:
    assert (first_impossible(history) is None) == any(map(_explains, permutations(history)))


def _explains(order: tuple[Operation, ...]) -> bool:
    there = ABSENT
    for number, one in enumerate(order):
        if any(later.answered is not None and later.answered < one.called for later in order[number:]):
            return False
        match one.kind:
            case Kind.PUT:
                there = one.version
            case Kind.DELETE:
                if bool(there) != bool(one.version):
                    return False
                there = ABSENT
            case Kind.READ:
                if there != one.version:
                    return False
    return True
