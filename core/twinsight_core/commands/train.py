"""`twinsight train`: folders of pictures become a model package that the server serves.

1. The data is read and checked; all that is wrong with it is told before the first step.
2. The network starts from another model's weights, or from none, and is trained; checkpoints, the decoded pictures and
   TensorBoard's events are kept in `.NAME.training` beside the package, so that `--resume` goes on.
3. The package is written with its scores on held-out data, and `report.html` in it.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from flax import nnx

from twinsight_core.calibration import fit_calibration
from twinsight_core.commands.options import run_options
from twinsight_core.models.classifier import Classifier, ClassifierConfig
from twinsight_core.models.rcnn import FasterRCNN, FasterRCNNConfig, Sampling
from twinsight_core.models.siamese import SiameseConfig, SiameseNetwork
from twinsight_core.packages import REPORT_FILE, ModelCard, save_package
from twinsight_core.training import classifier, detector, siamese
from twinsight_core.training.augment import PRESETS
from twinsight_core.training.detector_parts import anchor_sizes, detector_parts
from twinsight_core.training.evaluate import embedder
from twinsight_core.training.findings import (
    PAIRS_OF_A_KIND,
    class_pairs,
    classification_findings,
    detection_findings,
    embedding_findings,
)
from twinsight_core.training.report import Findings, write_report
from twinsight_core.training.runs import BACKBONES, NO_START, Run, Watching
from twinsight_core.training.starts import start_from

SAME_CLASS = "The two pictures are of one class in the sense of the training data."
CALIBRATION_FMR = 0.01
LEVELS = 3
"""Maps of a detector's pyramid: the coarsest of the backbone."""


@click.group(
    help="""Train a model on your own pictures; the result is a package for `twinsight serve --models-dir`.

    Everything has a default: `twinsight train siamese --data DIR --out DIR` is enough.

    \b
    Examples:
      twinsight train cnn --data clothes/ --out models/clothes
      twinsight train siamese --data people/ --out models/people
      twinsight train rcnn --data cells/ --out models/cells --annotations cells.json
      twinsight train siamese --data people/ --out models/people --resume
    """
)
def train() -> None:
    """Groups the kinds of training."""


@train.command()
@run_options(size=160, steps=600, learning_rate=5e-4, start="base", frozen_blocks=4)
@click.option("--batch-size", type=click.IntRange(min=2), default=64, show_default=True, help="Pictures in a batch.")
@click.option(
    "--balance",
    type=click.Choice(classifier.BALANCES),
    default="logit_adjusted",
    show_default=True,
    help="What is done where classes differ in size.",
)
def cnn(run: Run, *, batch_size: int, balance: classifier.Balance) -> None:
    """Train a classifier on class folders."""
    start = run.check()
    pictures = run.pictures()
    config = ClassifierConfig(backbone=BACKBONES[run.backbone], classes=max(2, len(pictures.classes)))
    how = classifier.ClassifierTraining(
        network=config,
        preprocessing=run.preprocessing,
        batch=batch_size,
        balance=balance,
        augmentation=PRESETS[run.augmentation],
        loop=run.loop,
    )
    classifier.split(pictures, how)  # says what is wrong before a network is made
    run.begin({"batch size": batch_size, "balance": balance}, pictures.files, start)
    network = Classifier(config=config, rngs=nnx.Rngs(run.seed))
    network = network if start is None else start_from(network, start)
    with closing(Watching(run)) as watching:
        trained, parts, _ = classifier.train_classifier(
            network,
            pictures,
            how,
            checkpoints=run.work / "checkpoints",
            resume=run.resume,
            frozen_blocks=run.frozen_blocks,
            watchers=watching.watchers,
        )
    images = pictures.images[parts.test]
    findings = classification_findings(
        embedder(trained)(images), pictures.labels[parts.test], images, pictures.classes, which=held_out_from(run)
    )
    card = run.card(replace(config, temperature=trained.temperature), recipe())
    finish(run, replace(card, labels=pictures.classes), trained, findings, watching)


@train.command("siamese", short_help="Train an embedding on class folders: for search and comparison.")
@run_options(size=160, steps=600, learning_rate=3e-4, start="base", frozen_blocks=4)
@click.option(
    "--dimension", type=click.IntRange(2, 4096), default=256, show_default=True, help="Components of the embedding."
)
@click.option("--classes", type=click.IntRange(min=2), default=16, show_default=True, help="Classes in a batch.")
@click.option(
    "--pictures", type=click.IntRange(min=2), default=4, show_default=True, help="Pictures of each class in a batch."
)
@click.option(
    "--groups",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Groups (folders of class folders) that a batch is drawn from, whole groups held out; 0: they don't count.",
)
@click.option("--turns", is_flag=True, help="Turned and mirrored classes are classes of their own (characters).")
@click.option("--flatten", is_flag=True, help="Keep where things are in the picture, instead of the mean over it.")
@click.option(
    "--loss",
    type=click.Choice(siamese.LOSSES),
    default="supervised_contrastive",
    show_default=True,
    help="What is made small.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=0.1,
    show_default=True,
    help="Scale of the similarities in supervised_contrastive.",
)
@click.option(
    "--margin",
    type=click.FloatRange(min=0, min_open=True),
    default=0.5,
    show_default=True,
    help="How far apart the other losses push classes.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0.01, 0.45),
    default=0.1,
    show_default=True,
    help="Share of the classes (or groups) held out to choose the weights by, and again for the scores.",
)
def siamese_command(
    run: Run,
    *,
    dimension: int,
    classes: int,
    pictures: int,
    groups: int,
    turns: bool,
    flatten: bool,
    loss: siamese.LossName,
    temperature: float,
    margin: float,
    held_out: float,
) -> None:
    """Train an embedding on class folders (a class: one thing, person or character): for search and comparison."""
    start = run.check()
    read = run.pictures()
    backbone = BACKBONES[run.backbone]
    config = SiameseConfig(
        backbone=backbone,
        dimension=dimension,
        pooling="flatten" if flatten else "mean",
        map_px=-(-run.size // backbone.strides[-1]) if flatten else 0,
    )
    how = siamese.SiameseTraining(
        network=config,
        preprocessing=run.preprocessing,
        classes=classes,
        pictures=pictures,
        groups=groups,
        turns=turns,
        loss=loss,
        temperature=temperature,
        margin=margin,
        validation=held_out,
        test=held_out,
        augmentation=PRESETS[run.augmentation],
        loop=run.loop,
    )
    siamese.Sampler(read, siamese.split(read, how).train, how)  # says what is wrong before a network is made
    run.begin(
        {"dimension": dimension, "classes": classes, "pictures of each": pictures, "groups": groups, "turns": turns,
         "flatten": flatten, "loss": loss, "temperature": temperature, "margin": margin, "held out": held_out},
        read.files,
        start,
    )  # fmt: skip
    network = SiameseNetwork(config=config, rngs=nnx.Rngs(run.seed))
    network = network if start is None else start_from(network, start)
    with closing(Watching(run)) as watching:
        trained, parts, _ = siamese.train_siamese(
            network,
            read,
            how,
            checkpoints=run.work / "checkpoints",
            resume=run.resume,
            frozen_blocks=run.frozen_blocks,
            watchers=watching.watchers,
        )
    embed = embedder(trained)
    embedded = {rows.tobytes(): embed(read.images[rows]) for rows in (parts.validation, parts.test)}

    def of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        labels = read.labels[rows]
        return embedded[rows.tobytes()], labels, read.groups()[labels] if groups else None

    findings = embedding_findings(
        *of(parts.test), read.images[parts.test], read.classes, which=f"whole classes {held_out_from(run)}"
    )
    calibration = None
    try:
        calibration = fit_calibration(
            fit=class_pairs(*of(parts.validation), each=PAIRS_OF_A_KIND, seed=1)[0],
            measure=class_pairs(*of(parts.test), each=PAIRS_OF_A_KIND, seed=2)[0],
            meaning=SAME_CLASS,
            false_match_rate=CALIBRATION_FMR,
        )
    except ValueError as error:
        click.echo(f"The model is written without a calibration: {error}", err=True)
    finish(run, replace(run.card(config, recipe()), calibration=calibration), trained, findings, watching)


@train.command(short_help="Train a detector on pictures with boxes (VOC or COCO).")
@run_options(
    size=240, steps=800, learning_rate=1e-3, start="base", frozen_blocks=5, augmentations=tuple(detector.AUGMENTATIONS)
)
@click.option(
    "--width",
    type=click.IntRange(0, 2048),
    default=320,
    show_default=True,
    help="Columns of the input in pixels; 0: as --size.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Pictures in a batch.")
@click.option(
    "--annotations",
    type=click.Path(dir_okay=False, path_type=Path),
    help="COCO's JSON file for the pictures of --data; else --data is in the layout of Pascal VOC.",
)
@click.option("--training-set", help="VOC's list of pictures to train on [default: train, where it and val are there].")
@click.option("--test-set", help="VOC's list of pictures for the scores [default: val, where it and train are there].")
def rcnn(
    run: Run,
    *,
    width: int,
    batch_size: int,
    annotations: Path | None,
    training_set: str | None,
    test_set: str | None,
) -> None:
    """Train a detector on pictures with boxes, in the layout of Pascal VOC or the format of COCO.

    Where VOC has no such lists, and with COCO, a fifth of the pictures is held out for the scores; of the others a
    tenth, to choose the weights by.
    """
    start = run.check()
    size = replace(run.preprocessing, width_px=width or run.size)
    parts = detector_parts(
        run.data,
        annotations,
        preprocessing=size,
        training_set=training_set,
        test_set=test_set,
        skip_bad=run.skip_bad,
    )
    backbone = BACKBONES[run.backbone]
    config = FasterRCNNConfig(
        backbone=backbone,
        classes=len(parts.test.classes),
        strides=backbone.strides[-LEVELS:],
        anchor_sizes=anchor_sizes(parts.train, size, count=LEVELS),
    )
    how = detector.DetectorTraining(
        network=config,
        batch=batch_size,
        sampling=Sampling(roi_share=0.5),  # of few, in pictures that are full of things
        augmentation=detector.AUGMENTATIONS[run.augmentation],
        loop=replace(run.loop, gradient_norm=5.0),
    )
    files = [*parts.train.files, "", *parts.validation.files, "", *parts.test.files]
    run.begin({"width": size.width_px, "batch size": batch_size}, files, start)
    network = FasterRCNN(config=config, rngs=nnx.Rngs(run.seed))
    network.eval()  # type: ignore[no-untyped-call]  # batches are too small for batch norm's statistics
    network = network if start is None else start_from(network, start)
    with closing(Watching(run)) as watching:
        trained, _, _ = detector.train_detector(
            network,
            parts.train,
            parts.validation,
            how,
            checkpoints=run.work / "checkpoints",
            resume=run.resume,
            frozen_blocks=run.frozen_blocks,
            watchers=watching.watchers,
        )
    findings = detection_findings(embedder(trained, batch=8)(parts.test.images), parts.test, which=held_out_from(run))
    card = replace(run.card(config, recipe()), preprocessing=size, labels=parts.test.classes)
    finish(run, card, trained, findings, watching)


def held_out_from(run: Run) -> str:
    """Returns what is known of the pictures that the scores are on."""
    started = (
        "" if run.start == NO_START else f"; what `{run.start}`, which it started from, was trained on is not excluded"
    )
    return f"held out from this training{started}"


def finish(
    run: Run, card: ModelCard, network: Classifier | SiameseNetwork | FasterRCNN, findings: Findings, watching: Watching
) -> None:
    """Writes the package and its report, and says where they are and what they are worth."""
    scores = {name: round(value, 4) for name, value in sorted(findings.scores.items())}
    package = save_package(run.out, replace(card, scores=scores), network)
    write_report(run.out / REPORT_FILE, package, findings, watching.history)
    click.echo(findings.protocol, err=True)
    for name, value in scores.items():
        click.echo(f"{name:40} {value:.4f}")
    click.echo(f"wrote {run.out} ({package.digest}); its report is {run.out / REPORT_FILE}", err=True)


def recipe() -> str:
    """Returns this command as it was given, without the words for the card and the machine's own paths."""
    words = iter(sys.argv[1:])
    kept: list[str] = ["twinsight"]
    for word in words:
        name, equals, _ = word.partition("=")
        if name in {"--description", "--licence", "--training-data"}:
            if not equals:
                next(words, None)
        elif name in {"--data", "--out"}:
            kept += [name, name[2:].upper()]
            if not equals:
                next(words, None)
        elif name != "--resume":
            kept.append(word)
    return shlex.join(kept)
