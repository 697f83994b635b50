"""Cards of models: what each does, how to read its scores, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ModelTask(StrEnum):
    """What a model does, and so which calls it serves."""

    UNSPECIFIED = "unspecified"
    EMBEDDING = "embedding"
    CLASSIFICATION = "classification"
    DETECTION = "detection"


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold chosen for a false match rate; the rates are shares of held-out pairs.

    Attributes:
        target_fmr: false match rate that the threshold was chosen for, 0..1.
        threshold: cosine similarity at and above which a pair counts as the same, -1..1.
        false_match_rate: share of different pairs that pass the threshold, 0..1.
        false_match_rate_low: lower end of its 95 % interval.
        false_match_rate_high: upper end of that interval.
        false_non_match_rate: share of same pairs that fail the threshold, 0..1.
        false_non_match_rate_low: lower end of its 95 % interval.
        false_non_match_rate_high: upper end of that interval.
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
        meaning: the event that the probability describes.
        threshold: cosine similarity at and above which a pair counts as the same by default, -1..1.
        false_match_rate: share of different pairs that pass the threshold, 0..1.
        false_non_match_rate: share of same pairs that fail it, 0..1.
        expected_calibration_error: expected calibration error of the probability, 0..1.
        false_match_rate_low: lower end of its 95 % interval; None, like the next three, if not measured.
        false_match_rate_high: upper end of that interval.
        false_non_match_rate_low: lower end of its 95 % interval.
        false_non_match_rate_high: upper end of that interval.
        operating_points: further thresholds, by decreasing `target_fmr`.
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
        name: the name by which calls choose it.
        digest: "sha256:" and 64 hexadecimal digits over the package's content.
        task: what it does.
        input_height: height of the network's input in pixels.
        input_width: width of the network's input in pixels.
        dimension: components of a vector; 0 unless the task is embedding.
        labels: every label the model can return; empty for an embedding model.
        calibration: None if the model is not calibrated.
        licence: licence of the weights.
        training_data: what the weights were trained on.
        description: what it is for and where it fails.
        scores: scores on held-out data, by name of the measure.
        architecture: name of the architecture.
        is_default: whether calls that name no model use this one.
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
