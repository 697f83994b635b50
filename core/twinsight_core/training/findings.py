"""A trained model's evaluation for its report: scores, plots and worst mistakes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image as Pillow
from PIL import ImageDraw

from twinsight_core.calibration import Calibration, ScoredPairs
from twinsight_core.errors import TrainingError
from twinsight_core.evaluation.classification import ClassificationScore, classification_score, log_softmax
from twinsight_core.evaluation.detection import ANY_CLASS, FoundBoxes, TrueBoxes, detection_score
from twinsight_core.evaluation.fitting import calibration_error, default_rates
from twinsight_core.evaluation.one_shot import one_shot_score
from twinsight_core.evaluation.retrieval import retrieval_scores
from twinsight_core.evaluation.verification import Roc, VerificationScore, roc_curve, verification_score
from twinsight_core.training.boxes import BoxedImages
from twinsight_core.training.detector import found_boxes, true_boxes
from twinsight_core.training.drawn_pairs import drawn_pairs
from twinsight_core.training.report import Findings, Mistake, confusion_figure, lines_figure

WORST = 12
RECALL_OF = "recall_"
"""Before a class's name, in the names of scores."""
ONE_SHOT_WAYS, ONE_SHOT_TRIALS = 20, 40_000
"""With this many trials, the standard error of an accuracy of 0.9 is 0.0015."""
SURE = 0.5
"""Lowest score of a detection that is shown."""
OVERLAP = 0.5
"""Overlap of a detection with the thing it matches, and the share of it in a region to ignore."""
PAIRS_OF_A_KIND = 20_000


def classification_findings(
    logits: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    classes: Sequence[str],
    files: Sequence[str],
    *,
    which: str,
) -> Findings:
    """Returns a classifier's evaluation.

    Args:
        logits: [count, classes] float, at the model's temperature; log probabilities work too.
        labels: [count] integer.
        images: [count, height, width, 3] uint8, RGB, 0..255.
        classes: names.
        files: [count] paths of the pictures, for the worst mistakes.
        which: which pictures they are, for the protocol.
    """
    log_probability = log_softmax(logits.astype(np.float64))
    score = classification_score(log_probability, labels)
    predicted = log_probability.argmax(axis=1)
    confidence = np.exp(log_probability.max(axis=1))
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong])][:WORST]
    mistakes = []
    for row in worst.tolist():
        true, taken = int(labels[row]), int(predicted[row])
        caption = f"{files[row]}: {classes[true]}, predicted {classes[taken]} ({confidence[row]:.0%})"
        mistakes.append(Mistake((np.asarray(images[row]),), caption))
    return Findings(
        protocol=f"{len(labels)} pictures, {which}.",
        scores=classification_scores(score, classes),
        figures={
            "Confusion": confusion_figure(score.confusion, classes),
            "Precision and recall": lines_figure(
                {name: _precision_recall(log_probability[:, n], labels == n) for n, name in enumerate(classes[:10])},
                x="recall",
                y="precision",
            ),
        },
        mistakes=mistakes,
    )


def classification_scores(score: ClassificationScore, classes: Sequence[str]) -> dict[str, float]:
    """Returns a classifier's scores by the names that reports and cards give them."""
    scores = {f"top{k}_accuracy": value for k, value in score.top_k.items()} | {
        "balanced_accuracy": score.balanced_accuracy,
        "expected_calibration_error": score.expected_calibration_error,
        "expected_calibration_error_even_classes": score.expected_calibration_error_even,
        "calibration_error_by_chance": score.calibration_error_by_chance,
        "negative_log_likelihood": score.negative_log_likelihood,
    }
    recalls = zip(classes, score.recall, strict=True)
    return scores | {f"{RECALL_OF}{name}": value for name, value in recalls if value is not None}


def embedding_findings(
    embeddings: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    images: np.ndarray,
    files: Sequence[str],
    *,
    which: str,
    calibration: Calibration | None = None,
) -> Findings:
    """Returns an embedding's evaluation.

    Args:
        embeddings: [count, dimension] float32, unit vectors.
        labels: [count] integer.
        groups: [count] integer, group of each picture's class; None to ignore groups.
        images: [count, height, width, 3] uint8, RGB, 0..255.
        files: [count] paths of the pictures, for the worst mistakes.
        which: which pictures they are, for the protocol.
        calibration: is measured, too, on the pairs; None: there is none.
    """
    retrieval = retrieval_scores(embeddings, labels)
    pairs, rows = class_pairs(embeddings, labels, groups, each=PAIRS_OF_A_KIND, seed=0)
    verification = verification_score(pairs)
    scores = {f"recall_at_{k}": value for k, value in retrieval.recall_at_k.items()} | {
        "r_precision": retrieval.r_precision,
        "map_at_r": retrieval.map_at_r,
        "verification_auc": verification.auc,
        "verification_equal_error_rate": verification.equal_error_rate,
        "verification_accuracy": verification.accuracy,
    }
    scores |= _tar_scores(verification) | _calibration_scores(calibration, pairs)
    kinds = f"{len(np.unique(labels))} classes"
    if groups is not None:
        scores |= one_shot_scores(embeddings, labels, groups)
        kinds += f" in {len(np.unique(groups))} groups"
    roc = roc_curve(pairs)
    return Findings(
        protocol=f"{len(labels)} pictures of {kinds}, {which}. Retrieval: each picture among all others. "
        f"Verification: {int(pairs.same.sum())} pairs of one class and {int((~pairs.same).sum())} of two classes"
        + (" of one group" if groups is not None else "")
        + ", drawn at random; verification_accuracy is at the best threshold on these pairs. "
        f"Intervals are of 95 %, over pictures of other classes.{_calibration_protocol(calibration)}",
        scores=scores,
        figures={"Verification: ROC": _roc_figure(roc)},
        mistakes=_worst_pairs(pairs, rows, images, files),
    )


def pair_findings(
    pairs: ScoredPairs,
    folds: np.ndarray | None,
    *,
    rows: np.ndarray,
    images: np.ndarray,
    files: Sequence[str],
    calibration: Calibration | None = None,
) -> Findings:
    """Returns how well cosines separate the same pairs of a list from the different ones.

    Args:
        pairs: cosines and truth.
        folds: [count] integer, the protocol's folds; None if it has none. They are ignored if leaving one out leaves no
            threshold to choose: for want of a second fold, or of pairs of one kind.
        rows: [count, 2] integer, the two pictures of each pair.
        images: [files, height, width, 3] uint8, RGB, 0..255.
        files: paths of the pictures.
        calibration: is measured, too; None: there is none.
    """
    score = verification_score(pairs, folds=folds if _can_measure_over(folds, pairs.same) else None)
    scores = {
        "verification_auc": score.auc,
        "verification_equal_error_rate": score.equal_error_rate,
        "verification_accuracy": score.accuracy,
    }
    protocol = f"{score.same_pairs} same and {score.different_pairs} different pairs, as listed. "
    if score.k_fold is not None:
        scores["verification_accuracy_over_folds"] = score.k_fold.mean
        scores["verification_accuracy_over_folds_standard_error"] = score.k_fold.standard_error
        protocol += f"Accuracy over {len(score.k_fold.accuracies)} folds: each at the threshold of the other folds. "
    elif folds is not None:
        why = "there is only one" if len(np.unique(folds)) == 1 else "without one of them, all pairs are of one kind"
        protocol += f"No accuracy over folds: {why}. "
    scores |= _tar_scores(score) | _calibration_scores(calibration, pairs)
    roc = roc_curve(pairs)
    return Findings(
        protocol=f"{protocol}verification_accuracy is at the best threshold on these pairs. Intervals are at 95 % and "
        f"assume independent pairs.{_calibration_protocol(calibration)}",
        scores=scores,
        figures={"Verification: ROC": _roc_figure(roc)},
        mistakes=_worst_pairs(pairs, rows, images, files),
    )


def _can_measure_over(folds: np.ndarray | None, same: np.ndarray) -> bool:
    """Returns whether leaving out any one fold leaves pairs of both kinds."""
    if folds is None:
        return False
    others = [same[folds != one] for one in np.unique(folds)]
    return all(of_both.any() and not of_both.all() for of_both in others)


def _tar_scores(verification: VerificationScore) -> dict[str, float]:
    """Returns the true accept rates that there are enough pairs for, with their intervals."""
    return {
        f"tar_at_far_{one.far:g}{end}": value
        for one in verification.tar_at_far
        for end, value in (("", one.true_accept_rate), ("_low", one.low), ("_high", one.high))
        if value is not None
    }


def _calibration_scores(calibration: Calibration | None, pairs: ScoredPairs) -> dict[str, float]:
    """Returns what a calibration's probabilities and default threshold are worth on pairs."""
    if calibration is None:
        return {}
    error = calibration_error(calibration, pairs)
    return {"expected_calibration_error": error} | default_rates(calibration, pairs)


def _calibration_protocol(calibration: Calibration | None) -> str:
    if calibration is None:
        return ""
    return (
        " expected_calibration_error is of the model's probabilities, at even odds; false_match_rate and "
        f"false_non_match_rate are at its default threshold ({calibration.threshold:.4f})."
    )


def one_shot_scores(embeddings: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Returns the accuracy of 20-way one-shot trials by both protocols, as far as there are enough classes."""
    scores = {}
    for protocol in ("within_alphabet", "unstructured"):
        try:
            score = one_shot_score(
                embeddings, labels, protocol=protocol, alphabets=groups, ways=ONE_SHOT_WAYS, trials=ONE_SHOT_TRIALS
            )
        except ValueError:
            continue  # too few classes for trials of 20
        scores[f"one_shot_{ONE_SHOT_WAYS}_way_{protocol}"] = score.accuracy
    return scores


def class_pairs(
    embeddings: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, *, each: int, seed: int
) -> tuple[ScoredPairs, np.ndarray]:
    """Returns distinct random pairs of one class and of two, and the rows of their pictures, [count, 2] int64.

    No pair is repeated, so rates over them are over as many pairs as stated. But pairs share pictures, and intervals
    that assume independence would be too narrow; so the pairs come with their classes.

    Args:
        embeddings: [count, dimension] float32, unit vectors.
        labels: [count] integer.
        groups: [count] integer; pairs of two classes are then within one group. None for any group.
        each: pairs of each kind, or all there are if fewer.
        seed: of the choice.

    Raises:
        TrainingError: there is no pair of one kind.
    """
    rng = np.random.default_rng(seed)
    within = np.zeros(len(labels), np.int64) if groups is None else groups
    same = drawn_pairs(labels, np.zeros_like(within), same=True, each=each, rng=rng)
    different = drawn_pairs(labels, within, same=False, each=each, rng=rng)
    if not len(same) or not len(different):
        which = "one class" if not len(same) else "two classes" + (" of one group" if groups is not None else "")
        raise TrainingError(f"No two pictures of {which} can be compared.", reason="PAIRS_TOO_FEW")
    rows = np.concatenate([same, different])
    cosine = np.sum(embeddings[rows[:, 0]] * embeddings[rows[:, 1]], axis=1)
    return ScoredPairs(cosine=cosine, same=np.arange(len(rows)) < len(same), classes=labels[rows]), rows


def group_pairs(
    embeddings: np.ndarray, labels: np.ndarray, groups: np.ndarray, *, each: int, seed: int
) -> list[ScoredPairs]:
    """Returns distinct random pairs within each group; leaves out groups without pairs of both kinds.

    Args:
        embeddings: [count, dimension] float32, unit vectors.
        labels: [count] integer.
        groups: [count] integer, group of each picture's class.
        each: pairs of each kind, spread evenly over the groups; all pairs of a group that has fewer.
        seed: of the choice.
    """
    numbers = np.unique(groups)
    found = []
    for number in numbers.tolist():
        of = np.flatnonzero(groups == number)
        with contextlib.suppress(TrainingError):
            found.append(
                class_pairs(embeddings[of], labels[of], None, each=each // len(numbers), seed=seed + number)[0]
            )
    return found


def detection_findings(answers: np.ndarray, data: BoxedImages, *, least_score: float, which: str) -> Findings:
    """Returns a detector's evaluation.

    Args:
        answers: [count, max_detections, 6] float32, the network's outputs.
        data: the pictures and their boxes.
        least_score: below it the network answers nothing, for the protocol.
        which: which pictures they are, for the protocol.
    """
    truth, found = true_boxes(data), found_boxes(answers)
    score = detection_score(truth, found, classes=len(data.classes))
    scores = {"ap": score.ap, "ap_50": score.ap_50, "ap_75": score.ap_75}
    for name, value in zip(data.classes, score.class_ap_50, strict=True):
        if value is not None:
            scores[f"ap_50_{name}"] = value
    counted = [_counted(one, other) for one, other in zip(truth, found, strict=True)]
    wrong = [
        (abs(len(one.labels) - int(sure.sum())), row)
        for row, (one, sure) in enumerate(zip(truth, counted, strict=True))
    ]
    mistakes = []
    for _, row in sorted(wrong, reverse=True)[:WORST]:
        one, sure = truth[row], counted[row]
        pixels = _with_boxes(data.images[row], one.ignored_boxes, "yellow")
        pictures = (_with_boxes(pixels, one.boxes, "lime"), _with_boxes(pixels, found[row].boxes[sure], "red"))
        caption = f"{data.files[row]}: {len(one.labels)} things (green), {int(sure.sum())} found (red)"
        if len(one.ignored_labels):
            caption += f", {len(one.ignored_labels)} ignored regions (yellow)"
        mistakes.append(Mistake(pictures, caption))
    return Findings(
        protocol=f"{score.pictures} pictures with {score.boxes} things, {which}. COCO's average precision of what "
        f"scores at least {least_score:g}; ap_50 is at an overlap of 0.50.",
        scores=scores,
        figures={
            "Precision and recall at an overlap of 0.50": lines_figure(
                {
                    name: (np.linspace(0.0, 1.0, len(precision)), precision)
                    for name, precision in zip(data.classes, score.class_precision_50, strict=True)
                    if precision is not None
                },
                x="recall",
                y="precision",
            )
        },
        mistakes=mistakes,
    ).leaving_out(data.left_out)


def _counted(truth: TrueBoxes, found: FoundBoxes) -> np.ndarray:
    """Returns which detections are shown, [count] bool: in an ignored region only those that match a thing."""
    own = _common(found.boxes, truth.boxes)
    union = _areas(found.boxes)[:, None] + _areas(truth.boxes) - own
    is_thing = ((own >= OVERLAP * union) & (found.labels[:, None] == truth.labels)).any(axis=1)
    within = _common(found.boxes, truth.ignored_boxes) >= OVERLAP * _areas(found.boxes)[:, None]
    is_of_class = (found.labels[:, None] == truth.ignored_labels) | (truth.ignored_labels == ANY_CLASS)
    is_ignored = (within & is_of_class).any(axis=1)
    counted: np.ndarray = (found.scores >= SURE) & (is_thing | ~is_ignored)
    return counted


def _common(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the area that boxes have in common, [n, m] of [n, 4] and [m, 4]."""
    least, most = np.maximum(left[:, None, :2], right[:, :2]), np.minimum(left[:, None, 2:], right[:, 2:])
    common: np.ndarray = np.maximum(most - least, 0.0).prod(axis=2)
    return common


def _areas(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def _with_boxes(pixels: np.ndarray, boxes: np.ndarray, colour: str) -> np.ndarray:
    picture = Pillow.fromarray(np.asarray(pixels))
    scale = np.array([picture.width, picture.height] * 2)
    draw = ImageDraw.Draw(picture)
    for box in boxes * scale:
        draw.rectangle([float(edge) for edge in box], outline=colour)
    return np.asarray(picture)


def _roc_figure(roc: Roc) -> Figure:
    return lines_figure(
        {"": (np.maximum(roc.false_accept_rate, 1e-5), roc.true_accept_rate)},
        x="false accept rate",
        y="true accept rate",
        logarithmic=True,
    )


def _worst_pairs(pairs: ScoredPairs, rows: np.ndarray, images: np.ndarray, files: Sequence[str]) -> list[Mistake]:
    """Returns the different pairs that look most alike, then the same pairs that look least alike.

    Args:
        pairs: cosines and truth.
        rows: [count, 2] integer, the two pictures of each pair.
        images: [pictures, height, width, 3] uint8, RGB, 0..255.
        files: paths of the pictures.
    """
    order = np.argsort(pairs.cosine, kind="stable")
    different, same = order[~pairs.same[order]][::-1], order[pairs.same[order]]
    mistakes = []
    for kind, worst in (("different", different), ("the same", same)):
        for number in worst[: WORST // 2]:
            sides = [int(row) for row in rows[number]]
            named = " / ".join(dict.fromkeys(files[row] for row in sides))
            pictures = tuple(np.asarray(images[row]) for row in sides)
            mistakes.append(Mistake(pictures, f"{kind}, cosine {pairs.cosine[number]:.2f}: {named}"))
    return mistakes


def _precision_recall(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall and precision at each different score, from the highest down."""
    order = np.argsort(-scores)
    hits, ranked = np.cumsum(positive[order]), scores[order]
    # No threshold lies between equal scores.
    ends = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))
    return hits[ends] / max(1, int(positive.sum())), hits[ends] / (ends + 1)
