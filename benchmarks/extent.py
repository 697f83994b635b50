"""How much is measured: all of it, or little, to see that a measurement works."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

QUICK_RESULTS = Path(tempfile.gettempdir()) / "twinsight-benchmarks"
"""Where the results of little go."""


@dataclass(frozen=True)
class Extent:
    """What was asked for.

    Attributes:
        quick: as little as shows that it works; no figure of that is worth keeping.
        million: grow a collection to a million vectors too, which takes much longer.
    """

    quick: bool = False
    million: bool = False

    def pick(self, full: T, quick: T) -> T:
        """Returns the one that was asked for."""
        return quick if self.quick else full

    @property
    def runs(self) -> int:
        """Figures that have to hold are medians over so many."""
        return self.pick(5, 1)
