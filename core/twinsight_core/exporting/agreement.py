"""Compares an exported file's outputs with the network's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image as Pillow

from twinsight_core.errors import StartupError
from twinsight_core.images import Preprocessing
from twinsight_core.models.precision import Precision
from twinsight_core.models.tasks import Task

LEAST_COSINE: dict[Precision, float] = {"f32": 0.9999, "bf16": 0.99}
"""Between two embeddings of a picture: below this, one counts as another model's."""
MOST_DIFFERENCE: dict[Precision, float] = {"f32": 1e-3, "bf16": 1e-2}
"""Between two probabilities, scores or edges of a box (as shares of the side): above this, they count as different."""
TRIAL_PICTURES = 6
DETECTIONS_PER_ASIDE = 50
"""One detection in this many is left aside. If a box overlaps another by just the threshold, or its score is just the
lowest that is returned, rounding decides whether it is there."""

Run = Callable[[np.ndarray], np.ndarray]
"""[batch, height, width, 3] uint8, RGB, 0..255 -> [batch, *answer] float32."""


class Agreement(NamedTuple):
    """How far a file's outputs are from the network's, over all test pictures.

    Attributes:
        measure: what `value` is: the lowest cosine between two embeddings, or the largest difference of any component;
            for detections, of any edge (as a fraction of the picture) or score, as `agreement` pairs them.
        value: the figure.
    """

    measure: Literal["cosine", "difference"]
    value: float

    def suffices(self, precision: Precision = "f32") -> bool:
        """Returns whether an executor or file of a precision may replace the network; NaN never does."""
        if self.measure == "cosine":
            return self.value >= LEAST_COSINE[precision]
        return self.value <= MOST_DIFFERENCE[precision]

    def __str__(self) -> str:
        return f"cosine {self.value:.7f}" if self.measure == "cosine" else f"largest difference {self.value:.2e}"


def trial_pictures(preprocessing: Preprocessing) -> np.ndarray:
    """Returns pictures that resemble real ones: soft random shapes with a little noise, the same every time.

    Returns:
        [6, height, width, 3] uint8, RGB, 0..255.
    """
    rng = np.random.default_rng(0)
    size = (preprocessing.width_px, preprocessing.height_px)
    pictures = []
    for number in range(TRIAL_PICTURES):
        coarse = rng.integers(0, 256, (3 + 2 * number, 3 + 2 * number, 3), dtype=np.uint8)
        soft = np.asarray(Pillow.fromarray(coarse).resize(size, Pillow.Resampling.BICUBIC), np.float32)
        pictures.append(np.clip(soft + rng.normal(0.0, 8.0, soft.shape), 0, 255).astype(np.uint8))
    return np.stack(pictures)


def agreement(task: Task, answers: np.ndarray, wanted: np.ndarray) -> Agreement:
    """Returns how far `answers` are from `wanted`.

    Of a picture's detections, each is compared with the nearest of its label, wherever in the answer that stands; one
    without such a partner differs by its score. The largest difference counts, those aside that `DETECTIONS_PER_ASIDE`
    allows for.

    Args:
        task: what the answers are.
        answers: [batch, *answer] float32, the file's.
        wanted: [batch, *answer] float32, the network's.
    """
    if task == "embedding":
        lengths = np.linalg.norm(answers, axis=-1) * np.linalg.norm(wanted, axis=-1)
        return Agreement("cosine", float(np.min(np.sum(answers * wanted, axis=-1) / np.maximum(lengths, 1e-12))))
    if task == "detection" and np.isfinite([answers, wanted]).all():
        apart = np.sort(np.concatenate([_apart(*rows) for rows in zip(answers, wanted, strict=True)]))[::-1]
        aside = len(apart) // DETECTIONS_PER_ASIDE
        return Agreement("difference", float(apart[aside]) if len(apart) else 0.0)
    return Agreement("difference", float(np.max(np.abs(answers - wanted))))


def compares_nothing(task: Task, answers: np.ndarray, wanted: np.ndarray) -> bool:
    """Returns whether neither side has a detection, which says of neither what it would find in other pictures.

    What finds nothing in the test pictures is compared by what it would tell without its least score
    (`models.registry.telling_all`).

    Args:
        task: what the answers are.
        answers: [batch, *answer] float32.
        wanted: [batch, *answer] float32.
    """
    return task == "detection" and not answers.any() and not wanted.any()


def _apart(answer: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns how far the detections of two answers for one picture are apart, [pairs and lonely ones] float32.

    Args:
        answer: [rows, 6] float32, as `models.tasks` says.
        wanted: [rows, 6] float32.
    """
    answer, wanted = answer[answer.any(axis=1)], wanted[wanted.any(axis=1)]
    distances = np.abs(answer[:, None, :5] - wanted[None, :, :5]).max(axis=-1)
    distances[answer[:, None, 5] != wanted[None, :, 5]] = np.inf
    apart: list[float] = []
    while distances.size and np.isfinite(distances.min()):
        row, column = np.unravel_index(np.argmin(distances), distances.shape)
        apart.append(distances[row, column])
        answer, wanted = np.delete(answer, row, axis=0), np.delete(wanted, column, axis=0)
        distances = np.delete(np.delete(distances, row, axis=0), column, axis=1)
    return np.array([*apart, *answer[:, 4], *wanted[:, 4]], np.float32)


def check(
    run: Run,
    network: Run,
    *,
    task: Task,
    preprocessing: Preprocessing,
    batch: int | None,
    telling_all: Callable[[], tuple[Run, Run]] | None = None,
) -> Agreement:
    """Returns how far a file's answers for the test pictures are from the network's.

    Args:
        run: the file: pictures to answers.
        network: the network: pictures to answers.
        task: what the answers are.
        preprocessing: shape of a picture.
        batch: the batch size that the file is for; None for any, of which 1 and 5 are tried.
        telling_all: gives file and network without a least score, which are compared where those find nothing.

    Raises:
        StartupError: they differ too much, or in shape or type; the message gives the figure.
    """
    pictures = trial_pictures(preprocessing)
    answers, wanted = _answers(run, network, pictures, batch)
    if telling_all is not None and compares_nothing(task, answers, wanted):
        answers, wanted = _answers(*telling_all(), pictures, batch)
    found = agreement(task, answers, wanted)
    if not found.suffices():
        least, most = LEAST_COSINE["f32"], MOST_DIFFERENCE["f32"]
        rule = f"a cosine of {least}" if found.measure == "cosine" else f"a difference of {most}"
        raise StartupError(
            f"The exported network does not answer as the package does: {found} on test pictures, past {rule}. No file "
            "was written.",
            reason="EXPORT_DIFFERS",
        )
    return found


def _answers(run: Run, network: Run, pictures: np.ndarray, batch: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the answers of a file and of its network, of one shape and type; `check` says the rest."""
    wanted = network(pictures)
    if batch is None:
        answers = np.concatenate([run(pictures[:1]), run(pictures[1:])])
    else:
        answers = np.concatenate([run(np.repeat(picture[None], batch, axis=0))[:1] for picture in pictures])
    if answers.shape != wanted.shape or answers.dtype != wanted.dtype:
        raise StartupError(
            f"The exported network answers with {answers.dtype} {answers.shape}; it must be {wanted.dtype} "
            f"{wanted.shape}. No file was written.",
            reason="EXPORT_DIFFERS",
        )
    return answers, wanted
