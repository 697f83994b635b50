"""What frames of a clip agree on: each that was found in a film says when the clip would begin there."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

STEP_S = 1.0
"""By less than this differs what frames say of the beginning: they are not taken at the same moments of the film."""

LEAST_AGREEING, LEAST_SHARE = 3, 0.3
"""Frames of a clip, and share of all, that agree by chance are fewer: of 24 that a clip of strangers had, 4 did."""


class Sighting(NamedTuple):
    """A clip's frame that was found in a film; times in seconds from the beginning of each."""

    film: str
    film_s: float
    clip_s: float

    @property
    def start_s(self) -> float:
        """When in the film the clip would begin."""
        return self.film_s - self.clip_s


class Found(NamedTuple):
    """A film that a clip was taken from.

    Attributes:
        film: its name.
        start_s: when in it the clip begins, in seconds.
        agreeing: frames of the clip that say so.
        frames: that it has.
    """

    film: str
    start_s: float
    agreeing: int
    frames: int


def agreed(sightings: Iterable[Sighting], *, frames: int) -> list[Found]:
    """Returns for each film the beginning that most frames agree on, where enough do; most first.

    Args:
        sightings: of all frames. One that is found at several places of a film counts once for each beginning.
        frames: of the clip.
    """
    by_film: dict[str, list[Sighting]] = defaultdict(list)
    for one in sightings:
        by_film[one.film].append(one)
    found = []
    for film, seen in by_film.items():
        together = _most_together(seen)
        agreeing = len({one.clip_s for one in together})
        if agreeing >= max(min(LEAST_AGREEING, frames), LEAST_SHARE * frames):
            found.append(Found(film, statistics.median(one.start_s for one in together), agreeing, frames))
    return sorted(found, key=lambda one: (-one.agreeing, one.film))


def _most_together(seen: Sequence[Sighting]) -> list[Sighting]:
    """Returns those of the two neighbouring steps in which most frames are."""
    steps: dict[int, list[Sighting]] = defaultdict(list)
    for one in seen:
        steps[math.floor(one.start_s / STEP_S)].append(one)
    windows = ([*steps[step], *steps.get(step + 1, ())] for step in sorted(steps))
    return max(windows, key=lambda window: len({one.clip_s for one in window}))
