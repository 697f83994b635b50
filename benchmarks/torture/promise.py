"""What a promise is, and what trying to break it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Figure = int | float | str


@dataclass(frozen=True)
class Scale:
    """How hard to try.

    Attributes:
        factor: of the long form; 1.0 is all of it.
        seed: chooses the random moments and damages; the same seed chooses the same.
    """

    factor: float = 1.0
    seed: int = 0

    def of(self, full: int, *, at_least: int = 1) -> int:
        """Returns a number of cases that is `full` in the long form."""
        return max(at_least, round(full * self.factor))

    def seconds(self, full: float, *, at_least: float = 0.0) -> float:
        """Returns how long to go on with what takes `full` seconds in the long form."""
        return max(at_least, full * self.factor)


@dataclass(frozen=True)
class Outcome:
    """What was tried, and what broke.

    Attributes:
        cases: how often the promise was tried.
        failures: what each failure was, in words that lead to it (seed, moment); empty: the promise held.
        figures: measures by name.
    """

    cases: int
    failures: Sequence[str]
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Promise:
    """A promise, and how it is tried.

    Attributes:
        number: its number in `docs/reliability.md`.
        name: its name on the command line, words with hyphens between.
        bar: what must hold in the long form, for the table.
        minutes: about what the long form takes on two cores.
        run: tries it. A bar on a figure counts as a failure where it is missed, so that `failures` says all.
    """

    number: int
    name: str
    bar: str
    minutes: float
    run: Callable[[Scale], Outcome]
