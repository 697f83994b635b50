"""Scores of classifiers: accuracy, confusion, and calibration of the confidence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twinsight_core.evaluation.fitting import ECE_BINS
from twinsight_core.evaluation.fitting import expected_calibration_error as binned_gap
from twinsight_core.evaluation.weighting import even_class_weights

_LOG = logging.getLogger(__name__)

LEAST_TEMPERATURE = 0.01
MOST_TEMPERATURE = 100.0
_BISECTIONS = 60


@dataclass(frozen=True)
class ClassificationScore:
    """A classifier's scores.

    Attributes:
        top_k: share of pictures whose class is among the k likeliest, 0..1, by k.
        balanced_accuracy: mean of the recalls of the classes that have pictures, 0..1.
        recall: [classes] share of each class's pictures that were predicted as it, 0..1; None if it has none.
        precision: [classes] share of the pictures predicted as the class that are of it, 0..1; None if none was.
        confusion: [classes][classes] number of pictures by true class (row) and predicted class (column).
        expected_calibration_error: mean gap between confidence and accuracy, 0..1.
        expected_calibration_error_even: the same with every class counting alike, however many pictures it has.
        calibration_error_by_chance: the gap that as many pictures would show if every confidence were true, 0..1.
        negative_log_likelihood: mean over the pictures, at least 0.
        pictures: pictures that were measured.
    """

    top_k: dict[int, float]
    balanced_accuracy: float
    recall: tuple[float | None, ...]
    precision: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    expected_calibration_error: float
    expected_calibration_error_even: float
    calibration_error_by_chance: float
    negative_log_likelihood: float
    pictures: int


def classification_score(logits: np.ndarray, labels: np.ndarray, *, ks: Sequence[int] = (1, 5)) -> ClassificationScore:
    """Returns all scores of one classifier.

    Args:
        logits: [count, classes] float; log probabilities work too.
        labels: [count] integer, 0..classes - 1.
        ks: the k of top-k accuracies; those above the number of classes are left out.

    Raises:
        ValueError: shapes differ, there is no picture, or a value breaks its rule.
    """
    _check(logits, labels)
    classes = logits.shape[1]
    confusion = confusion_matrix(labels, np.argmax(logits, axis=1), classes=classes)
    probabilities = np.exp(log_softmax(logits))
    return ClassificationScore(
        top_k={k: top_k_accuracy(logits, labels, k=k) for k in ks if k <= classes},
        balanced_accuracy=balanced_accuracy(confusion),
        recall=class_recall(confusion),
        precision=class_precision(confusion),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        expected_calibration_error=expected_calibration_error(probabilities, labels),
        expected_calibration_error_even=expected_calibration_error(
            probabilities, labels, weights=even_class_weights(labels)
        ),
        calibration_error_by_chance=calibration_error_by_chance(probabilities),
        negative_log_likelihood=negative_log_likelihood(logits, labels),
        pictures=len(labels),
    )


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, *, k: int) -> float:
    """Returns the share of pictures whose class is among the k with the highest scores, 0..1.

    Of equal scores the lower class number comes first, as with argmax: equal scores for all do not score.

    Args:
        scores: [count, classes] float, logits or probabilities.
        labels: [count] integer, 0..classes - 1.
        k: 1..classes.

    Raises:
        ValueError: shapes differ, there is no picture, or a value breaks its rule.
    """
    _check(scores, labels)
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"`k` (={k}) must lie in 1..{scores.shape[1]}, the number of classes.")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1])[None, :] < labels[:, None]
    ahead = (scores > own) | ((scores == own) & earlier)
    return float((ahead.sum(axis=1) < k).mean())


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, *, classes: int) -> np.ndarray:
    """Returns the number of pictures by true class (row) and predicted class (column).

    Args:
        labels: [count] integer, 0..classes - 1.
        predicted: [count] integer, 0..classes - 1.
        classes: number of classes.

    Returns:
        [classes, classes] int64.

    Raises:
        ValueError: shapes differ or a number is no class.
    """
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(f"`labels` {labels.shape} and `predicted` {predicted.shape} must be [count].")
    for name, values in (("labels", labels), ("predicted", predicted)):
        _check_classes(name, values, classes)
    cells = labels.astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def class_recall(confusion: np.ndarray) -> tuple[float | None, ...]:
    """Returns the share of each class's pictures that were predicted as it; None for a class without pictures."""
    return _shares(np.diagonal(confusion), confusion.sum(axis=1))


def class_precision(confusion: np.ndarray) -> tuple[float | None, ...]:
    """Returns the share of the pictures predicted as a class that are of it; None for one that was never predicted."""
    return _shares(np.diagonal(confusion), confusion.sum(axis=0))


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Returns the mean recall of the classes that have pictures: a rare class counts as much as a frequent one."""
    return float(np.mean([recall for recall in class_recall(confusion) if recall is not None]))


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, *, bins: int = ECE_BINS, weights: np.ndarray | None = None
) -> float:
    """Returns the mean gap between confidence and accuracy over bins of equal width, weighted by their pictures.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.

    Args:
        probabilities: [count, classes] float, 0..1.
        labels: [count] integer, 0..classes - 1.
        bins: number of bins of the confidence, the highest probability of a picture.
        weights: [count] float, how many pictures each stands for; None: one each.

    Raises:
        ValueError: shapes differ, there is no picture, or a value breaks its rule.
    """
    _check(probabilities, labels)
    right = np.argmax(probabilities, axis=1) == labels
    return binned_gap(probabilities.max(axis=1), right, bins=bins, weights=weights)


def calibration_error_by_chance(
    probabilities: np.ndarray, *, bins: int = ECE_BINS, draws: int = 200, seed: int = 0
) -> float:
    """Returns the calibration error that the same confidences would have by chance if every one were true.

    Gaps are absolute, so with few pictures there are some even if the confidences are perfect; a measured error should
    be compared with this one. It is the mean over random draws of which pictures are classified correctly.

    Source: Kumar, Liang and Ma, "Verified Uncertainty Calibration", NeurIPS 2019, section 5 (the bias of the plug-in
    estimate); the resampling here is that of Broecker and Smith, "Increasing the Reliability of Reliability Diagrams",
    Weather and Forecasting 2007.

    Args:
        probabilities: [count, classes] float, 0..1.
        bins: number of bins of the confidence.
        draws: random draws, at least 1.
        seed: of all draws.
    """
    confidence = probabilities.max(axis=1)
    rng = np.random.default_rng(seed)
    errors = [binned_gap(confidence, rng.random(len(confidence)) < confidence, bins=bins) for _ in range(draws)]
    return float(np.mean(errors))


def negative_log_likelihood(
    logits: np.ndarray, labels: np.ndarray, *, temperature: float = 1.0, weights: np.ndarray | None = None
) -> float:
    """Returns the mean of -log of the label's probability, the softmax of logits / temperature.

    Args:
        logits: [count, classes] float.
        labels: [count] integer, 0..classes - 1.
        temperature: above 0.
        weights: [count] float, how many pictures each stands for; None: one each.

    Raises:
        ValueError: shapes differ, there is no picture, or a value breaks its rule.
    """
    _check(logits, labels)
    log_probability = log_softmax(logits.astype(np.float64) / temperature)
    return float(-np.average(np.take_along_axis(log_probability, labels[:, None], axis=1)[:, 0], weights=weights))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the logarithms of the probabilities that softmax makes, [count, classes] float; none is lost to 0."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def fit_temperature(logits: np.ndarray, labels: np.ndarray, *, weights: np.ndarray | None = None) -> float:
    """Returns the temperature whose probabilities have the lowest cross-entropy with the smoothed labels.

    Of `count` pictures' labels each is taken to be right with probability (count + 1) / (count + 2), the rest going to
    the other classes alike. Where all pictures are named rightly the plain likelihood would have the temperature go to
    0 and every probability to 1; so the mean confidence stays near that share instead, 0.93 of 12 pictures and 0.999 of
    1,000, of which the temperature hardly moves (by less than 2 % where one in eight is wrong).

    The loss is convex in 1 / temperature, so bisection of its slope finds the only optimum. Dividing by it leaves every
    prediction as it was.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2 (temperature scaling); Platt,
    "Probabilistic Outputs for Support Vector Machines", 1999 (the smoothed targets, by Laplace's
    rule of succession).

    Args:
        logits: [count, classes] float, of pictures that the network was not trained on.
        labels: [count] integer, 0..classes - 1.
        weights: [count] float, how many pictures each stands for; None: one each.

    Returns:
        LEAST_TEMPERATURE..MOST_TEMPERATURE; an end where the optimum lies beyond, which is logged.

    Raises:
        ValueError: shapes differ, there is no picture, or a value breaks its rule.
    """
    _check(logits, labels)
    values = logits.astype(np.float64)
    count, classes = values.shape
    own = np.take_along_axis(values, labels[:, None], axis=1)[:, 0]
    others = (values.sum(axis=1) - own) / max(1, classes - 1)
    wrong = 1.0 / (count + 2)
    wanted = (1.0 - wrong) * own + wrong * others

    def slope(inverse: float) -> float:
        """Returns the derivative of the loss by 1 / temperature; it rises."""
        expected = np.sum(np.exp(log_softmax(values * inverse)) * values, axis=1)
        return float(np.average(expected - wanted, weights=weights))

    # In the logarithm of 1 / temperature.
    low, high = -np.log(MOST_TEMPERATURE), -np.log(LEAST_TEMPERATURE)
    if slope(float(np.exp(low))) >= 0:
        return _end_of_range(MOST_TEMPERATURE, count)
    if slope(float(np.exp(high))) <= 0:
        return _end_of_range(LEAST_TEMPERATURE, count)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(float(np.exp(middle))) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def _end_of_range(temperature: float, count: int) -> float:
    _LOG.warning(
        "no temperature in %g..%g fits the logits of %d pictures; using %g, and probabilities mean little",
        LEAST_TEMPERATURE,
        MOST_TEMPERATURE,
        count,
        temperature,
    )
    return temperature


def _shares(parts: np.ndarray, wholes: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(part / whole) if whole else None for part, whole in zip(parts, wholes, strict=True))


def _check(scores: np.ndarray, labels: np.ndarray) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(
            f"the scores {scores.shape} must be [count, classes] and `labels` {labels.shape} [count], at least one."
        )
    if np.isnan(scores).any():
        raise ValueError("a score is not a number.")
    _check_classes("labels", labels, scores.shape[1])


def _check_classes(name: str, values: np.ndarray, classes: int) -> None:
    if len(values) and not (values.min() >= 0 and values.max() < classes):
        raise ValueError(f"`{name}` must lie in 0..{classes - 1}; they reach from {values.min()} to {values.max()}.")
