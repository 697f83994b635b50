"""`twinsight train siamese`: an embedding, from class folders or from a list of pairs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np

from twinsight_core.calibration import Calibration
from twinsight_core.commands.finishing import finish, held_out_from, recipe
from twinsight_core.commands.numbers import FiniteRange
from twinsight_core.commands.options import given, refuse_options, run_options
from twinsight_core.commands.output import write_line
from twinsight_core.commands.paths import PathType
from twinsight_core.evaluation.fitting import cross_fit_calibration, fit_calibration
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.packages import ModelPackage
from twinsight_core.training import siamese, siamese_pairs
from twinsight_core.training.alone import alone
from twinsight_core.training.augment import PRESETS
from twinsight_core.training.data import tell_skipped
from twinsight_core.training.digests import labelled_digests, parts_digest, pictures_digest
from twinsight_core.training.distillation import Teacher, embedding_teacher
from twinsight_core.training.evaluate import embedder
from twinsight_core.training.findings import (
    PAIRS_OF_A_KIND,
    class_pairs,
    embedding_findings,
    group_pairs,
    pair_findings,
)
from twinsight_core.training.pair_caveats import caveats
from twinsight_core.training.pairs import PairList
from twinsight_core.training.parts import Parts
from twinsight_core.training.pixels import pixels_of
from twinsight_core.training.runs import BACKBONES, Run, Watching
from twinsight_core.training.starts import first_network

_LOG = logging.getLogger(__name__)

SAME_CLASS = "The two pictures are of one class as the training data defines it, at even prior odds."
SAME_PAIR = "The two pictures are a same pair as the training list defines it, at even prior odds."
CALIBRATION_FMR = 0.01
_OF_MARGINS = "unit vectors are at most 2 apart, 4 squared, and an angle counts in radians"
_MOST_TIMES = 2
"""Multiple of the target that the interval of the measured rate may reach without a warning."""
CLASSES_ALONE = ("classes", "pictures", "groups", "turns", "temperature", "exclude")
"""Options that have no effect on a list of pairs."""


@click.command("siamese", short_help="Train an embedding on class folders or pairs: for search and comparison.")
@run_options(size=160, steps=600, learning_rate=3e-4, start="base", frozen_blocks=4, distillation_temperature=0.1)
@click.option(
    "--pairs",
    type=PathType(dir_okay=False),
    help="List of pairs to train on instead of classes: LEFT,RIGHT,SAME[,FOLD] per line, or LFW's pairs.txt.",
)
@click.option(
    "--pairs-in-batch",
    type=click.IntRange(2, 4096),
    default=32,
    show_default=True,
    help="Pairs in a batch, of --pairs.",
)
@click.option(
    "--dimension", type=click.IntRange(2, 4096), default=256, show_default=True, help="Components of the embedding."
)
@click.option(
    "--classes",
    type=click.IntRange(2, 4096),
    default=16,
    show_default="16, or all that there are",
    help="Classes in a batch.",
)
@click.option(
    "--pictures", type=click.IntRange(2, 4096), default=4, show_default=True, help="Pictures of each class in a batch."
)
@click.option(
    "--groups",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Groups (folders of class folders) per batch; whole groups are held out. 0 ignores groups.",
)
@click.option("--turns", is_flag=True, help="Treat turned and mirrored classes as further classes (for characters).")
@click.option("--flatten", is_flag=True, help="Flatten the feature map instead of averaging it: keeps positions.")
@click.option(
    "--loss",
    type=click.Choice(siamese.LOSSES),
    default="supervised_contrastive",
    show_default=True,
    help="Loss to minimise (contrastive with --pairs).",
)
@click.option(
    "--temperature",
    type=FiniteRange(min=0, min_open=True),
    help="Scale of the similarities in supervised_contrastive and arcface.  [default: 0.1, for arcface 0.03]",
)
@click.option(
    "--margin",
    type=FiniteRange(min=0, min_open=True),
    default=0.5,
    show_default=True,
    help="Margin between classes or pairs: a distance, for arcface an angle in radians; not of supervised_contrastive.",
)
@click.option(
    "--held-out",
    type=FiniteRange(0.01, 0.45),
    default=0.1,
    show_default=True,
    help="Share of the classes (or groups, or pairs) held out to select the weights, and again for the scores.",
)
def siamese_command(
    run: Run,
    *,
    pairs: Path | None,
    pairs_in_batch: int,
    dimension: int,
    classes: int,
    pictures: int,
    groups: int,
    turns: bool,
    flatten: bool,
    loss: siamese.LossName,
    temperature: float | None,
    margin: float,
    held_out: float,
) -> None:
    """Train an embedding for search and comparison on class folders (one class per thing, person or character).

    With --pairs, train on a list of same and different pairs instead, named by their paths in --data. Whole folds of
    the list are held out. Without folds, the held-out pairs share no picture and no identity folder with the others;
    different pairs drawn at random that link held-out pictures to the rest are left out.
    """
    _check_options(pairs, loss, margin)
    start = run.check()
    click.get_current_context().with_resource(alone(run.work))
    teacher = None if run.distillation is None else embedding_teacher(run.distillation)
    backbone = BACKBONES[run.backbone]
    config = SiameseConfig(
        backbone=backbone,
        dimension=dimension,
        pooling="flatten" if flatten else "mean",
        map_px=-(-run.size // backbone.strides[-1]) if flatten else 0,
    )
    if pairs is not None:
        of_pairs = siamese_pairs.PairTraining(
            batch=pairs_in_batch,
            margin=margin,
            validation=held_out,
            test=held_out,
            augmentation=PRESETS[run.augmentation],
            loop=run.loop,
        )
        _train_on_pairs(run, pairs, config, of_pairs, start=start, teacher=teacher)
        return
    of_classes = siamese.SiameseTraining(
        network=config,
        preprocessing=run.preprocessing,
        classes=classes,
        pictures=pictures,
        groups=groups,
        turns=turns,
        loss=loss,
        temperature=siamese.TEMPERATURES.get(loss, 0.1) if temperature is None else temperature,
        margin=margin,
        validation=held_out,
        test=held_out,
        augmentation=PRESETS[run.augmentation],
        loop=run.loop,
    )
    _train_on_classes(run, of_classes, start=start, teacher=teacher)


def _check_options(pairs: Path | None, loss: siamese.LossName, margin: float) -> None:
    """Rejects options that were given and would have no effect, and a margin that no vectors can reach.

    Raises:
        click.UsageError: there are any.
    """
    most = siamese.MOST_MARGIN.get("contrastive" if pairs is not None else loss, math.inf)
    if margin > most:
        raise click.UsageError(f"--margin (={margin:g}) must be at most {most:.4g} for this loss: {_OF_MARGINS}.")
    if pairs is None:
        if given("pairs_in_batch"):
            raise click.UsageError("--pairs-in-batch requires --pairs: class folders have no pairs.")
        return
    refuse_options(CLASSES_ALONE, why="--pairs: a list of pairs has no classes")
    if given("loss") and loss != "contrastive":
        raise click.UsageError(f"--loss (={loss}) must be contrastive with --pairs: the others need classes.")


def _train_on_classes(
    run: Run, how: siamese.SiameseTraining, *, start: ModelPackage | None, teacher: Teacher | None
) -> None:
    read = run.pictures()
    config = how.network
    rows = siamese.split(read, how).train
    if not given("classes"):
        how = replace(how, classes=max(2, min(how.classes, siamese.trainable_classes(read, rows))))
    siamese.Sampler(read, rows, how)  # fails before a network is built
    network = _first_network(run, config, start)
    run.begin(
        {"dimension": config.dimension, "classes": how.classes, "pictures of each": how.pictures,
         "groups": how.groups, "turns": how.turns, "flatten": config.pooling == "flatten", "loss": how.loss,
         "temperature": how.temperature, "margin": how.margin, "held out": how.test},
        data=labelled_digests(read),
        network=config,
        start=start,
    )  # fmt: skip
    with closing(Watching(run)) as watching:
        trained, parts, _ = siamese.train_siamese(
            network,
            read,
            how,
            checkpoints=run.checkpoints,
            resume=run.resume,
            frozen_blocks=run.frozen_blocks,
            teacher=teacher,
            watchers=watching.watchers,
        )
    embed = embedder(trained)

    def of(rows: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        labels = read.labels[rows]
        return embed(images), labels, read.groups()[labels] if how.groups else None

    held_out = pixels_of(read.images, parts.test)
    fit, measure = of(parts.validation, pixels_of(read.images, parts.validation)), of(parts.test, held_out)
    files = [read.files[row] for row in parts.test.tolist()]
    findings = embedding_findings(*measure, held_out, files, which=f"whole classes {held_out_from(run)}").leaving_out(
        len(read.skipped)
    )
    if fit[2] is not None and measure[2] is not None:
        unmeasured = group_pairs(fit[0], fit[1], fit[2], each=PAIRS_OF_A_KIND, seed=1)
        groups = group_pairs(measure[0], measure[1], measure[2], each=PAIRS_OF_A_KIND, seed=2)
        calibration = _calibrated(partial(cross_fit_calibration, groups, unmeasured=unmeasured), meaning=SAME_CLASS)
    else:
        one, other = (
            class_pairs(*part, each=PAIRS_OF_A_KIND, seed=number)[0] for number, part in ((1, fit), (2, measure))
        )
        calibration = _calibrated(partial(fit_calibration, fit=one, measure=other), meaning=SAME_CLASS)
    finish(run, replace(run.card(config, recipe()), calibration=calibration), trained, findings, watching)


def _train_on_pairs(
    run: Run,
    listed: Path,
    config: SiameseConfig,
    how: siamese_pairs.PairTraining,
    *,
    start: ModelPackage | None,
    teacher: Teacher | None,
) -> None:
    read = siamese_pairs.read_pair_pictures(run.data, listed, preprocessing=run.preprocessing, skip_bad=run.skip_bad)
    tell_skipped(read.skipped)
    _LOG.info("%d pairs of %d pictures", len(read.pairs.same), len(read.pairs.files))
    dealt = siamese_pairs.split(read.pairs, how)  # fails before a network is built
    network = _first_network(run, config, start)
    run.begin(
        {"pairs": read.digest, "pairs in batch": how.batch, "dimension": config.dimension,
         "flatten": config.pooling == "flatten", "margin": how.margin, "held out": how.test},
        data={"pictures": pictures_digest(read.pairs.files, read.images), "held-out pairs": parts_digest(dealt)},
        network=config,
        start=start,
    )  # fmt: skip
    with closing(Watching(run)) as watching:
        trained, parts, _ = siamese_pairs.train_on_pairs(
            network,
            read,
            how,
            checkpoints=run.checkpoints,
            resume=run.resume,
            frozen_blocks=run.frozen_blocks,
            teacher=teacher,
            watchers=watching.watchers,
        )
    embed = embedder(trained)
    validation, test = (
        read.scored(embed(pixels_of(read.images, read.needed(rows))), rows) for rows in (parts.validation, parts.test)
    )
    findings = pair_findings(
        test,
        None if read.pairs.folds is None else read.pairs.folds[parts.test],
        rows=read.pairs.sides[parts.test],
        images=read.images,
        files=read.pairs.files,
    )
    findings = replace(findings, protocol=f"{findings.protocol} {_which(run, listed, read.pairs, parts)}")
    findings = findings.leaving_out(len(read.skipped))
    calibration = _calibrated(partial(fit_calibration, fit=validation, measure=test), meaning=SAME_PAIR)
    finish(run, replace(run.card(config, recipe()), calibration=calibration), trained, findings, watching)


def _first_network(run: Run, config: SiameseConfig, start: ModelPackage | None) -> SiameseNetwork:
    return first_network(partial(SiameseNetwork, config=config), seed=run.seed, start=start)


def _calibrated(fit: Callable[..., Calibration], *, meaning: str) -> Calibration | None:
    """Returns the calibration, or None with a message if none can be fitted; warns if its interval is wide."""
    try:
        calibration = fit(meaning=meaning, false_match_rate=CALIBRATION_FMR)
    except ValueError as error:
        write_line(f"The model is written without a calibration: {error}", err=True)
        return None
    low, high = calibration.false_match_rate_low, calibration.false_match_rate_high
    if low is not None and high is not None and high > _MOST_TIMES * CALIBRATION_FMR:
        write_line(
            f"The default threshold targets a false match rate of {CALIBRATION_FMR:.0%}; on the held-out pairs the "
            f"95 % interval is {low:.1%} to {high:.1%}. Run `twinsight calibrate` on more pairs to narrow it.",
            err=True,
        )
    return calibration


def _which(run: Run, listed: Path, pairs: PairList, parts: Parts) -> str:
    """Returns the protocol's sentences on which pairs were scored, and which chose the weights and the calibration."""
    if pairs.folds is None:
        test = f"those of {listed.name} that share no picture and no identity folder with the others"
        validation = f"Another {len(parts.validation)} such pairs"
    else:
        test = f"those of {_named(np.unique(pairs.folds[parts.test]))} of {listed.name}"
        validation = f"Those of {_named(np.unique(pairs.folds[parts.validation]))}"
    return (
        f"The pairs are {test}, {held_out_from(run)}. {validation} chose the weights and fitted the calibration."
        f"{caveats(pairs, [parts.train, parts.validation, parts.test])}"
    )


def _named(folds: np.ndarray) -> str:
    return f"fold {folds[0]}" if len(folds) == 1 else f"folds {folds[0]} to {folds[-1]}"
