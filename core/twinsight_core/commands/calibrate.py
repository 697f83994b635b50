"""`twinsight calibrate`: give a model's scores a meaning."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from twinsight_core.calibration import Calibration, OperatingPoint, ScoredPairs
from twinsight_core.commands.finishing import card_scores
from twinsight_core.commands.folders import package_option
from twinsight_core.commands.labelled import (
    DATA_OPTION,
    MODEL_OPTION,
    MODELS_DIR_OPTION,
    PAIRS_OPTION,
    SKIP_BAD_OPTION,
    class_pictures,
    labelled_pictures,
    listed_pictures,
    scored_pairs,
)
from twinsight_core.commands.numbers import FiniteRange
from twinsight_core.commands.options import given, refuse_options, told
from twinsight_core.commands.output import printable, write_line
from twinsight_core.errors import TrainingError
from twinsight_core.evaluation.classification import (
    classification_score,
    fit_temperature,
    negative_log_likelihood,
)
from twinsight_core.evaluation.error_rates import pairs_needed
from twinsight_core.evaluation.fitting import cross_fit_calibration, fit_calibration, leave_one_out, measured_loss
from twinsight_core.evaluation.weighting import even_class_weights
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.packages import REPORT_FILE, ModelCard, ModelPackage, check_replaceable, find_package, save_package
from twinsight_core.training.classifier import EVEN_ODDS_STATED, at_temperature
from twinsight_core.training.copies import distinct_pictures
from twinsight_core.training.data import LabelledImages
from twinsight_core.training.evaluate import embedder, logits_of
from twinsight_core.training.findings import (
    PAIRS_OF_A_KIND,
    RECALL_OF,
    class_pairs,
    classification_scores,
    group_pairs,
)
from twinsight_core.training.pair_caveats import caveats
from twinsight_core.training.pairs import halves as pair_halves
from twinsight_core.training.siamese_pairs import PairPictures

SAME_CLASS = "The two pictures are of one class as the calibration data defines it, at even prior odds."
SAME_PAIR = "The two pictures are a same pair as the calibration list defines it, at even prior odds."
FALSE_MATCH_RATE = 0.01
LEAST_SAME_PAIRS = 100
LEAST_PICTURES = 100
"""The 95 % interval of a rate over this many is at most a fifth wide."""
_SHOWN_LABELS = 20
CALIBRATED = "<p>The model was recalibrated after this report was written; its digest has changed.</p>"
"""Last line of the report that a calibrated model keeps."""
_LATER = re.compile(r"\s*Calibrated later on [^\n]*; what else is said here of a calibration or scores is older\.")


@click.command()
@MODEL_OPTION
@MODELS_DIR_OPTION
@DATA_OPTION
@PAIRS_OPTION
@SKIP_BAD_OPTION
@click.option("--groups", is_flag=True, help="Draw pairs within groups (folders of class folders).")
@click.option(
    "--meaning",
    help="A sentence that says what the probability is of.  [default: that the two are of one class, or with --pairs "
    "a same pair, as the data defines it]",
)
@click.option(
    "--false-match-rate",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=FALSE_MATCH_RATE,
    show_default=f"{FALSE_MATCH_RATE}, or less where the probability at that threshold would be below one half",
    help="False match rate of the default operating point.",
)
@package_option(
    "Package to write, in place of one that is there; without it the model's own. Required for a shipped model.",
    required=False,
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Random seed.",
)
@told
def calibrate(
    *,
    model: str,
    models_dir: Path | None,
    data: Path,
    pairs: Path | None,
    skip_bad: bool,
    groups: bool,
    meaning: str | None,
    false_match_rate: float,
    out: Path | None,
    seed: int,
) -> None:
    """Calibrate a model's scores: probabilities, and operating points with stated error rates.

    Embedding: uses pairs, listed or drawn from class folders. The pictures are split into halves, one to fit on and one
    to measure on, and no class is in both. With --groups the fit uses all groups, and each group is measured by a fit
    on the others. Same and different pairs weigh the same, however many there are of each: probabilities are at even
    odds. Fitting and measuring each need 100 same pairs, and different pairs three times the inverse of
    --false-match-rate.

    Classifier: fits the temperature of its softmax on one half of at least 100 different pictures, some of each label.
    The card's scores are then those of the other half.

    Use data like that which the model will see, and that it was not trained on. Calibrate before indexing: calibration
    changes the model's outputs and so its digest, and collections of the earlier model accept pictures only while that
    model is served too (--out writes beside it).
    """
    package = find_package(model, models_dir)
    if out is None and package.is_shipped:
        raise TrainingError(
            f"`{package.name}` ships with twinsight and is never changed; give --out for the calibrated package.",
            reason="OUT_MISSING",
        )
    check_replaceable(out or package.folder)
    network = package.build()
    if isinstance(network, Classifier):
        without = ("pairs", "groups", "meaning", "false_match_rate", "seed")
        refuse_options(without, why=f"`{package.name}`: a classifier's temperature is fitted on class folders")
        read = distinct_pictures(labelled_pictures(package, data, skip_bad=skip_bad))
        _check_pictures(data, read)
        _calibrate_classifier(package, network, data, read, out or package.folder)
        return
    if package.card.task != "embedding":
        raise TrainingError(
            f"`{package.name}` is a model for {package.card.task}, which has nothing to calibrate.", reason="MODEL_TASK"
        )
    meaning = meaning or (SAME_CLASS if pairs is None else SAME_PAIR)
    each = max(PAIRS_OF_A_KIND, 2 * pairs_needed(false_match_rate))
    try:
        if pairs is None:
            read = distinct_pictures(class_pictures(package, data, skip_bad=skip_bad))
            how = (_pairs_of_groups if groups else _pairs_of_classes)(package, read, each=each, seed=seed)
            _check_pairs(data, [(fit.same, measure.same) for fit, measure in how.folds], false_match_rate)
        else:
            read_pairs = listed_pictures(package, data, pairs, skip_bad=skip_bad)
            # Check the list alone before its pictures go through the network, which may take an hour.
            same = read_pairs.pairs.same
            if same.all() or not same.any():
                raise ValueError("it needs pairs of both kinds.")
            halves = pair_halves(read_pairs.pairs, seed=seed)
            _check_pairs(data, [(same[halves[0]], same[halves[1]])], false_match_rate)
            how = _pairs_of_list(package, read_pairs, halves)
        asked = given("false_match_rate")
        calibration = how.fit(meaning=meaning, false_match_rate=false_match_rate, at_least_even=not asked)
    except ValueError as error:  # no pairs of one kind, or the cosine says nothing about them
        raise TrainingError(f"{data}: no calibration can be fitted: {error}", reason="DATA_INSUFFICIENT") from error
    if (before := package.card.calibration) is not None:
        _tell_if_worse(measured_loss(how.folds, before), measured_loss(how.folds))
    card = replace(_told_later(package.card, pairs or data), calibration=calibration)
    written = save_package(out or package.folder, card, network, report=_report(package))
    write_line(f"expected calibration error  {calibration.expected_calibration_error:.4f}")
    write_line("target FMR   threshold   FMR (95 % interval)          FNMR (95 % interval)")
    _tell_point("default", calibration)
    for one in calibration.operating_points:
        _tell_point(f"{one.target_fmr:g}", one)
    if pairs is None:
        write_line("The intervals are those over pictures of other classes.")
    else:
        write_line("The intervals assume independent pairs; if pairs share pictures, they are too narrow.")
    _tell_written(written, package)


class _Fit(NamedTuple):
    """How a calibration is fitted.

    Attributes:
        fit: returns it.
        folds: pairs to fit on, and the pairs to measure that fit on.
    """

    fit: Callable[..., Calibration]
    folds: Sequence[tuple[ScoredPairs, ScoredPairs]]


def _tell_point(target: str, one: Calibration | OperatingPoint) -> None:
    match_rate = (one.false_match_rate, one.false_match_rate_low, one.false_match_rate_high)
    non_match_rate = (one.false_non_match_rate, one.false_non_match_rate_low, one.false_non_match_rate_high)
    rates = "   ".join("{:.4f} ({:.4f} to {:.4f})".format(*rate) for rate in (match_rate, non_match_rate))
    write_line(f"{target:<12} {one.threshold:<11.4f} {rates}")


def _tell_if_worse(before: float, now: float) -> None:
    """Warns if the calibration before has the lower mean loss on the pictures that are measured."""
    if round(now, 4) > round(before, 4):
        write_line(
            f"The calibration before was better on the measured pictures: negative log-likelihood {before:.4f}, "
            f"now {now:.4f}.",
            err=True,
        )


def _pairs_of_groups(package: ModelPackage, read: LabelledImages, *, each: int, seed: int) -> _Fit:
    """Returns a fit on pairs within each group of classes."""
    groups = read.groups()
    _check_enough(len(np.unique(groups[read.labels])), "groups")
    embeddings = embedder(package.build())(read.images)
    drawn = group_pairs(embeddings, read.labels, groups[read.labels], each=each, seed=seed)
    return _Fit(partial(cross_fit_calibration, drawn), leave_one_out(drawn))


def _pairs_of_classes(package: ModelPackage, read: LabelledImages, *, each: int, seed: int) -> _Fit:
    """Returns a fit on pairs of one half of the classes, measured on the other half."""
    order = np.random.default_rng(seed).permutation(np.unique(read.labels))
    _check_enough(len(order), "classes")
    embeddings = embedder(package.build())(read.images)
    half = np.isin(read.labels, order[: len(order) // 2])

    def pairs(rows: np.ndarray, number: int) -> ScoredPairs:
        return class_pairs(embeddings[rows], read.labels[rows], None, each=each, seed=seed + number)[0]

    return _fit_of_halves(pairs(half, 1), pairs(~half, 2))


def _pairs_of_list(package: ModelPackage, read: PairPictures, halves: tuple[np.ndarray, np.ndarray]) -> _Fit:
    """Returns a fit on one half of a list, measured on the other half; prints which pairs are in neither."""
    first, second = halves
    if told_of := caveats(read.pairs, [np.flatnonzero(first), np.flatnonzero(second)]):
        write_line(told_of.strip(), err=True)
    scored = scored_pairs(package, read)
    return _fit_of_halves(scored.part(first), scored.part(second))


def _fit_of_halves(fit: ScoredPairs, measure: ScoredPairs) -> _Fit:
    return _Fit(partial(fit_calibration, fit=fit, measure=measure), [(fit, measure)])


def _told_later(card: ModelCard, data: Path) -> ModelCard:
    """Returns a card whose training data say what it was calibrated on last; its own words may be of another time."""
    before, name = _LATER.sub("", card.training_data), printable(data.resolve().name)
    said = f"{before} Calibrated later on {name}; what else is said here of a calibration or scores is older."
    return replace(card, training_data=said.strip())


def _tell_written(written: ModelPackage, before: ModelPackage) -> None:
    write_line(f"wrote {written.folder} ({written.digest})", err=True)
    if written.folder.samefile(before.folder):
        write_line(
            f"Servers take it when they start. Collections of {before.digest} then take pictures only where that model "
            "is served too.",
            err=True,
        )


def _report(package: ModelPackage) -> bytes | None:
    """Returns the package's report with a note that it is of the model before; None if there is no report."""
    path = package.folder / REPORT_FILE
    if not path.exists():
        return None
    report, told = path.read_bytes(), f"\n{CALIBRATED}".encode()
    return report if report.endswith(told) else report + told


def _check_enough(count: int, kind: str) -> None:
    if count < 4:
        raise TrainingError(f"Calibration needs at least 4 {kind}; there are {count}.", reason="CLASSES_TOO_FEW")


def _check_pairs(data: Path, folds: Sequence[tuple[np.ndarray, np.ndarray]], false_match_rate: float) -> None:
    """Rejects pairs too few to state the default threshold's rates; `folds`: which are same, `[pairs] bool`."""
    least = min((fit for fit, _ in folds), key=len)
    needed = pairs_needed(false_match_rate)
    for what, sides in (("fit on", [least]), ("measure on", [measure for _, measure in folds])):
        same = sum(int(side.sum()) for side in sides)
        different = sum(len(side) for side in sides) - same
        if same < LEAST_SAME_PAIRS or different < needed:
            raise TrainingError(
                f"{data}: there are {same} same and {different} different pairs to {what}; a false match rate of "
                f"{false_match_rate:g} needs at least {LEAST_SAME_PAIRS} and {needed}.",
                reason="DATA_INSUFFICIENT",
            )


def _check_pictures(data: Path, read: LabelledImages) -> None:
    """Rejects pictures that can't determine a temperature for all labels."""
    if len(read) < LEAST_PICTURES:
        raise TrainingError(
            f"{data}: calibration needs at least {LEAST_PICTURES} pictures; there are {len(read)}.",
            reason="DATA_INSUFFICIENT",
        )
    counts = np.bincount(read.labels, minlength=len(read.classes))
    if missing := [f"`{name}`" for name, count in zip(read.classes, counts, strict=True) if not count]:
        more = f" and {len(missing) - _SHOWN_LABELS} more" if len(missing) > _SHOWN_LABELS else ""
        raise TrainingError(
            f"{data}: calibration needs pictures of every label; there are none of "
            f"{', '.join(missing[:_SHOWN_LABELS])}{more}.",
            reason="DATA_INSUFFICIENT",
        )


def _calibrate_classifier(
    package: ModelPackage, network: Classifier, data: Path, read: LabelledImages, out: Path
) -> None:
    """Fits the temperature on one half of each class's pictures and measures on the other."""
    config = package.card.config
    if not isinstance(config, ClassifierConfig):
        raise TypeError("A classifier's configuration is a ClassifierConfig.")
    order = np.lexsort((np.arange(len(read)), read.labels))
    fitted = np.zeros(len(read), bool)
    fitted[order[::2]] = True
    logits = logits_of(network)(read.images)
    # As it was trained, or the card would say what is no longer so.
    is_even = EVEN_ODDS_STATED in package.card.training_data
    fit, measure = read.labels[fitted], read.labels[~fitted]
    temperature = fit_temperature(logits[fitted], fit, weights=even_class_weights(fit) if is_even else None)
    measured = classification_score(logits[~fitted] / temperature, measure)
    weights = even_class_weights(measure) if is_even else None
    before, now = (
        negative_log_likelihood(logits[~fitted], measure, temperature=one, weights=weights)
        for one in (config.temperature, temperature)
    )
    _tell_if_worse(before, now)
    # All of them: scores of other pictures beside them could not be told from them.
    kept = {name: score for name, score in package.card.scores.items() if not name.startswith(RECALL_OF)}
    scores = kept | card_scores(classification_scores(measured, read.classes), read.classes)
    told_later = _told_later(package.card, data)
    card = replace(told_later, config=replace(config, temperature=temperature), scores=scores)
    written = save_package(out, card, at_temperature(network, config, temperature), report=_report(package))
    write_line(f"temperature                 {temperature:.4f} (was {config.temperature:.4f})")
    write_line(
        f"expected calibration error  {measured.expected_calibration_error:.4f} "
        f"({measured.calibration_error_by_chance:.4f} by chance)"
    )
    if is_even:  # which is what was fitted
        write_line(f"the same, classes alike     {measured.expected_calibration_error_even:.4f}")
    _tell_written(written, package)
