"""Voting of a clip's frames: each frame that was found in a film says when the clip would begin there."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

STEP_S = 1.0
"""Frames of one clip differ by less than this about its beginning: they are not sampled at the same times."""

LEAST_AGREEING, LEAST_SHARE = 3, 0.3
"""Fewer frames, and a smaller share, agree by chance: of the 24 frames of an unrelated clip, 4 did."""


class Sighting(NamedTuple):
    """A frame of a clip that was found in a film.

    Attributes:
        film: the film's name.
        film_s: the frame's time in the film, in seconds from its beginning.
        clip_s: the frame's time in the clip, likewise.
        probability: that the two frames have the same original, 0..1.
    """

    film: str
    film_s: float
    clip_s: float
    probability: float = 1.0

    @property
    def start_s(self) -> float:
        """Time in the film at which the clip would begin."""
        return self.film_s - self.clip_s


class Found(NamedTuple):
    """A film that a clip was taken from.

    Attributes:
        film: its name.
        start_s: time in it at which the clip begins, in seconds.
        agreeing: frames of the clip that agree.
        frames: frames of the clip.
    """

    film: str
    start_s: float
    agreeing: int
    frames: int


def agreed(sightings: Iterable[Sighting], *, frames: int) -> list[Found]:
    """Returns, for each film, the beginning that most frames agree on, if enough do; most frames first.

    Args:
        sightings: sightings of all frames; one found at several places of a film counts once for each beginning.
        frames: frames of the clip.
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
    """Returns the sightings of the two neighbouring steps with the most frames; of equals, with the likeliest."""
    steps: dict[int, list[Sighting]] = defaultdict(list)
    for one in seen:
        steps[math.floor(one.start_s / STEP_S)].append(one)
    windows = ([*steps[step], *steps.get(step + 1, ())] for step in sorted(steps))
    return max(windows, key=_frames_and_probability)


def _frames_and_probability(seen: Sequence[Sighting]) -> tuple[int, float]:
    best: dict[float, float] = {}
    for one in seen:
        best[one.clip_s] = max(one.probability, best.get(one.clip_s, 0.0))
    return len(best), sum(best.values())
