"""Whether what clients of a register were told can have come from one after another.

A register holds a version or nothing. Its history is linearizable when every operation can be given a moment between
its call and its answer so that, in the order of the moments, each answer is right. Keys are checked one by one: a
history of many registers is linearizable when that of each is.

Source: J. Wing, C. Gong, Testing and verifying concurrent objects, J. Parallel Distrib. Comput. 17, 1993; done by time,
remembering which operations in flight have had their moment, as in G. Lowe, Testing for linearizability, Concurrency
and Computation 29(4), 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

ABSENT = 0
"""The version of what is not there; others are above."""


class Kind(StrEnum):
    """What an operation does, and what `Operation.version` then says."""

    PUT = "put"  # the version written
    DELETE = "delete"  # ABSENT: it was told that nothing was there; otherwise something was
    READ = "read"  # the version read


@dataclass(frozen=True, slots=True)
class Operation:
    """A call that was answered, or never was.

    Attributes:
        called: when.
        answered: when; None: never, so that it may happen at any time or not at all.
        kind: what it does.
        version: see `Kind`.
    """

    called: int
    answered: int | None
    kind: Kind
    version: int


_State = tuple[int, frozenset[int]]
"""The register's version, and the operations in flight that have had their moment."""


def first_impossible(history: Sequence[Operation]) -> Operation | None:
    """Returns the first operation whose answer no order explains; None: the history is linearizable.

    Args:
        history: of one register that starts out absent, in any order.
    """
    # At equal times calls come first: the operations then overlap.
    events = [(one.called, False, number) for number, one in enumerate(history)]
    events += [(one.answered, True, number) for number, one in enumerate(history) if one.answered is not None]
    states: set[_State] = {(ABSENT, frozenset())}
    flying: set[int] = set()
    for _, answered, number in sorted(events):
        if not answered:
            flying.add(number)
            continue
        states = {
            (version, done - {number}) for version, done in _reached(states, history, flying, number) if number in done
        }
        flying.remove(number)
        if not states:
            return history[number]
    return None


def _reached(states: set[_State], history: Sequence[Operation], flying: set[int], wanted: int) -> set[_State]:
    """Returns all that may be once operations in flight, of which one is wanted, have had their moments."""
    seen, pending = set(states), list(states)
    while pending:
        version, done = pending.pop()
        if wanted in done:
            continue  # the others can have theirs later
        for number in flying - done:
            after = _after(version, history[number])
            if after is not None and (reached := (after, done | {number})) not in seen:
                seen.add(reached)
                pending.append(reached)
    return seen


def _after(version: int, operation: Operation) -> int | None:
    """Returns the version after an operation; None: its answer would be wrong here."""
    if operation.kind is Kind.PUT:
        return operation.version
    if operation.answered is not None:
        told = operation.version
        right = (version == ABSENT) == (told == ABSENT) if operation.kind is Kind.DELETE else version == told
        if not right:
            return None
    return ABSENT if operation.kind is Kind.DELETE else version
