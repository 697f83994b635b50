"""Cards of models as a caller sees them: what each does, how its scores are to be read, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ModelTask(StrEnum):
    """What a model does, and which calls it is for."""

    UNSPECIFIED = "unspecified"
    EMBEDDING = "embedding"
    CLASSIFICATION = "classification"
    DETECTION = "detection"


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold that was chosen for a false match rate; the rates are shares of held-out pairs.

    Attributes:
        target_fmr: the rate that the threshold was chosen for, 0..1.
        threshold: cosine similarity at and above which a pair is the same, -1..1.
        false_match_rate: different pairs that pass the threshold, 0..1.
        false_match_rate_low: lower end of its 95 % interval.
        false_match_rate_high: its upper end.
        false_non_match_rate: same pairs that fail the threshold, 0..1.
        false_non_match_rate_low: lower end of its 95 % interval.
        false_non_match_rate_high: its upper end.
    """

    target_fmr: float
    threshold: float
    false_match_rate: float
    false_match_rate_low: float
    false_match_rate_high: float
    false_non_match_rate: float
    false_non_match_rate_low: float
    false_non_match_rate_high: float


@dataclass(frozen=True)
class Calibration:
    """How a cosine similarity becomes a probability and a decision; the rates are shares of held-out pairs.

    Attributes:
        meaning: what the probability is a probability of.
        threshold: cosine similarity at and above which a pair is the same unless a call says otherwise, -1..1.
        false_match_rate: different pairs that pass the threshold, 0..1.
        false_non_match_rate: same pairs that fail it, 0..1.
        expected_calibration_error: of the probability, 0..1.
        false_match_rate_low: lower end of the rate's 95 % interval; None, as the following three, where not measured.
        false_match_rate_high: its upper end.
        false_non_match_rate_low: lower end of that rate's 95 % interval.
        false_non_match_rate_high: its upper end.
        operating_points: further thresholds, by falling `target_fmr`.
    """

    meaning: str
    threshold: float
    false_match_rate: float
    false_non_match_rate: float
    expected_calibration_error: float
    false_match_rate_low: float | None = None
    false_match_rate_high: float | None = None
    false_non_match_rate_low: float | None = None
    false_non_match_rate_high: float | None = None
    operating_points: tuple[OperatingPoint, ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """A model's card.

    Attributes:
        name: the name under which calls ask for it.
        digest: "sha256:" and 64 hexadecimal digits over the package's content.
        task: what it does.
        input_height: rows of the picture the network sees, in pixels.
        input_width: columns of it, in pixels.
        dimension: components of a vector; 0 where the task is not embedding.
        labels: what the model can answer; empty for an embedding model.
        calibration: None where the model was not calibrated.
        licence: licence of the weights.
        training_data: what the weights were trained on.
        description: what it is for and where it fails.
        scores: on held-out data, by name of the measure.
        architecture: the architecture's name.
        is_default: whether calls that name no model get this one.
    """

    name: str
    digest: str
    task: ModelTask
    input_height: int
    input_width: int
    dimension: int
    labels: tuple[str, ...]
    calibration: Calibration | None
    licence: str
    training_data: str
    description: str
    scores: Mapping[str, float]
    architecture: str
    is_default: bool
