"""What the run asks of its processes and what they answer: a line of JSON each way.

Only the standard library is imported: the peers' environments have no more in common.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal, Protocol

Setting = str | int | float | bool
Settings = dict[str, Setting]

Do = Literal["serve", "fill", "open", "times", "batches", "load", "values", "versions"]


@dataclass(frozen=True)
class Order:
    """One order.

    Attributes:
        do: what to do; see `worker.Worker.carry_out`.
        settings: of the server or the subject.
        count: how many calls.
        warm_up: calls before them that don't count.
        size: queries in a batch.
        at: when to begin counting, on the system's monotonic clock, which all processes share.
        seconds: for how long.
    """

    do: Do
    settings: Settings = field(default_factory=dict)
    count: int = 0
    warm_up: int = 0
    size: int = 0
    at: float = 0.0
    seconds: float = 0.0

    def line(self) -> str:
        """Returns the order as it is sent."""
        return json.dumps(vars(self))

    @classmethod
    def parse(cls, line: str) -> Order:
        """Returns the order that was sent."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Answer:
    """What came of an order.

    Attributes:
        facts: told by a server that started, a store that was filled, or of versions.
        times_ms: how long each call took.
        count: how much was done: calls, or what a peer counts instead.
        values: a vector, or the ids found, for each call.
        error: why it failed; empty: it did not.
    """

    facts: Settings = field(default_factory=dict)
    times_ms: list[float] = field(default_factory=list)
    count: int = 0
    values: list[list[float]] = field(default_factory=list)
    error: str = ""

    def line(self) -> str:
        """Returns the answer as it is sent."""
        return json.dumps(vars(self))

    @classmethod
    def parse(cls, line: str) -> Answer:
        """Returns the answer that was sent."""
        return cls(**json.loads(line))


class Subject(Protocol):
    """What is measured: a network in this process, or one thread's connection to a server."""

    def call(self, number: int) -> object:
        """Does the work once; this is what is timed. `number` chooses the query, where there are several."""
        ...

    def values(self, number: int) -> list[float]:
        """Does the work once and returns the picture's vector, or the ids found, closest first."""
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


class BatchSubject(Subject, Protocol):
    """One that also takes several queries in one call."""

    def batch(self, first: int, size: int) -> object:
        """Asks `size` queries from number `first` on, in one call."""
        ...
