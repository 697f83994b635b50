"""Cards of the fake models, looked up by name and task like on a server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from twinsight.v1 import model_service_pb2 as models_pb
from twinsight.v1 import types_pb2
from twinsight_client.errors import FailedPrecondition, FieldViolation, NotFound
from twinsight_client.testing.pictures import ROUNDING, refused

LABELS = ("bird", "cat", "dog")
"""Labels of the fake classifiers and detectors."""
THRESHOLD = 0.5
"""Cosine at and above which the fake models call two pictures the same."""
OPERATING_POINTS = {0.1: 0.3, 0.01: 0.7}
"""Their thresholds by false match rate, least strict first."""

_TASK_NAMES: dict[models_pb.ModelTask.ValueType, str] = {
    models_pb.MODEL_TASK_EMBEDDING: "embedding",
    models_pb.MODEL_TASK_CLASSIFICATION: "classification",
    models_pb.MODEL_TASK_DETECTION: "detection",
}


class Cards:
    """The models that a fake server pretends to have.

    Args:
        embedders: names of those that embed; the first is the default.
        classifiers: names of those that classify.
        detectors: names of those that detect.
        dimension: components of the vectors.
    """

    def __init__(
        self, embedders: Iterable[str], *, classifiers: Iterable[str], detectors: Iterable[str], dimension: int
    ) -> None:
        self._cards = {name: _embedder(name, dimension) for name in embedders}
        self._default = next(iter(self._cards))
        self._cards[self._default].is_default = True
        self._cards |= {name: _labelling(name, models_pb.MODEL_TASK_CLASSIFICATION) for name in classifiers}
        self._cards |= {name: _labelling(name, models_pb.MODEL_TASK_DETECTION) for name in detectors}

    def all(self) -> list[models_pb.Model]:
        """Returns the cards sorted by name."""
        return [self._cards[name] for name in sorted(self._cards)]

    def get(self, name: str, *, field: str = "model") -> models_pb.Model:
        """Returns a model's card; for an empty name, the default model's. `field` is the name's path, for errors.

        Raises:
            NotFound: no model has the name.
        """
        name = name or self._default
        if name not in self._cards:
            there = ", ".join(f"`{one}`" for one in sorted(self._cards))
            message = f"Model `{name}` does not exist; available: {there}."
            raise NotFound(message, reason="MODEL_NOT_FOUND", violations=[FieldViolation(field, message)])
        return self._cards[name]

    def get_for(self, task: models_pb.ModelTask.ValueType, name: str, *, field: str = "model") -> models_pb.Model:
        """Returns the card of a model for a task; for an empty name the default model, or else the only one for it.

        Args:
            task: what it is for.
            name: its name.
            field: the name's path in the request, for errors.

        Raises:
            NotFound: no model has the name, or none is for the task.
            FailedPrecondition: the model is for another task.
            InvalidArgument: several are for the task, and none was named.
        """
        able = {one.name: one for one in self.all() if one.task == task}
        if not name and self._default not in able:
            return self._only(able, task)
        card = self.get(name, field=field)
        if card.name not in able:
            message = f"Model `{card.name}` is for {_TASK_NAMES[card.task]}, not {_TASK_NAMES[task]}."
            raise FailedPrecondition(message, reason="MODEL_TASK", violations=[FieldViolation(field, message)])
        return card

    @staticmethod
    def _only(able: Mapping[str, models_pb.Model], task: models_pb.ModelTask.ValueType) -> models_pb.Model:
        if not able:
            raise NotFound(f"No model for {_TASK_NAMES[task]} is loaded.", reason="MODEL_NOT_FOUND")
        if len(able) > 1:
            names = ", ".join(f"`{name}`" for name in able)
            raise refused(
                "MODEL_AMBIGUOUS", "model", f"`model` must be set; available for {_TASK_NAMES[task]}: {names}."
            )
        return next(iter(able.values()))


def operating_point(target_fmr: float) -> tuple[float, float]:
    """Returns the operating point for a false match rate: its own rate, and its threshold.

    Raises:
        InvalidArgument: the rate is out of range, or no point is that strict.
    """
    if not 0 < target_fmr <= 1:
        message = f"`target_fmr` (={target_fmr}) must be above 0 and at most 1."
        raise refused("TARGET_FMR_INVALID", "target_fmr", message)
    for rate, threshold in OPERATING_POINTS.items():
        if rate <= target_fmr * (1 + ROUNDING):
            return rate, threshold
    known = ", ".join(f"{rate:g}" for rate in OPERATING_POINTS)
    raise refused(
        "TARGET_FMR_UNKNOWN",
        "target_fmr",
        f"`target_fmr` (={target_fmr}) must be at least that of one of the model's operating points: {known}.",
    )


def reference(card: models_pb.Model) -> types_pb2.ModelReference:
    """Returns which model answered."""
    return types_pb2.ModelReference(name=card.name, digest=card.digest)


def _embedder(name: str, dimension: int) -> models_pb.Model:
    points = [
        models_pb.OperatingPoint(
            target_fmr=rate, threshold=threshold, false_match_rate_high=rate, false_non_match_rate_high=1.0
        )
        for rate, threshold in OPERATING_POINTS.items()
    ]
    return models_pb.Model(
        name=name,
        digest=_digest(f"{name}/{dimension}"),
        task=models_pb.MODEL_TASK_EMBEDDING,
        input_height=8,
        input_width=8,
        dimension=dimension,
        calibration=models_pb.Calibration(
            meaning="the two pictures have the same bytes", threshold=THRESHOLD, operating_points=points
        ),
        licence="Apache-2.0",
        training_data="none",
        description="Draws a vector from a picture's bytes; for tests.",
        architecture="hash",
    )


def _labelling(name: str, task: models_pb.ModelTask.ValueType) -> models_pb.Model:
    return models_pb.Model(
        name=name,
        digest=_digest(f"{name}/{_TASK_NAMES[task]}"),
        task=task,
        input_height=8,
        input_width=8,
        labels=LABELS,
        licence="Apache-2.0",
        training_data="none",
        description="Draws labels from a picture's bytes; for tests.",
        architecture="hash",
    )


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
