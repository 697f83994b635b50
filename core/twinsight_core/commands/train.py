"""`twinsight train`: turn folders or pairs of pictures into a model package that the server serves.

1. The data is read and checked; every problem is reported before the first step.
2. The network starts from another model's weights, or from random ones, and is trained. Checkpoints, the decoded
   pictures and TensorBoard's events are kept in `.NAME.training` beside the package, accessible to its owner only, so
   that `--resume` can continue.
3. The package is written with its scores on held-out data and `report.html`; the decoded pictures are deleted.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from twinsight_core.commands.finishing import finish, held_out_from, recipe
from twinsight_core.commands.options import given, run_options
from twinsight_core.commands.paths import PathType
from twinsight_core.commands.train_siamese import siamese_command
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.rcnn import FasterRCNN, Sampling
from twinsight_core.training import classifier, detector
from twinsight_core.training.alone import alone
from twinsight_core.training.augment import PRESETS
from twinsight_core.training.detector_parts import anchor_sizes, detector_parts
from twinsight_core.training.digests import boxed_digests, labelled_digests
from twinsight_core.training.distillation import check_teacher, label_teacher
from twinsight_core.training.evaluate import embedder, logits_of
from twinsight_core.training.findings import classification_findings, detection_findings
from twinsight_core.training.pixels import pixels_of
from twinsight_core.training.runs import BACKBONES, Run, Watching
from twinsight_core.training.starts import first_network

LEVELS = 3
"""Maps of a detector's pyramid: the coarsest of the backbone."""


@click.group(
    help="""Train a model on your own pictures; the result is a package for `twinsight serve --models-dir`.

    Everything has a default: `twinsight train siamese --data DIR --out DIR` is enough.

    The package contains report.html, which shows held-out pictures and the names of their folders or files unless
    --no-report-pictures is given. A hidden folder .NAME.training beside the package keeps the checkpoints, and until
    the package is written the decoded pictures.

    \b
    Examples:
      twinsight train cnn --data clothes/ --out models/clothes
      twinsight train siamese --data people/ --out models/people
      twinsight train siamese --data people/ --out models/people --pairs pairs.csv
      twinsight train cnn --data clothes/ --out models/small --teacher models/large
      twinsight train rcnn --data cells/ --out models/cells --annotations cells.json
      twinsight train siamese --data people/ --out models/people --resume
    """
)
def train() -> None:
    """Groups the kinds of training."""


@train.command()
@run_options(size=160, steps=600, learning_rate=5e-4, start="base", frozen_blocks=4, distillation_temperature=4.0)
@click.option("--batch-size", type=click.IntRange(2, 4096), default=64, show_default=True, help="Pictures in a batch.")
@click.option(
    "--balance",
    type=click.Choice(classifier.BALANCES),
    default="logit_adjusted",
    show_default=True,
    help="How to balance classes of different sizes.",
)
def cnn(run: Run, *, batch_size: int, balance: classifier.Balance) -> None:
    """Train a classifier on class folders."""
    start = run.check()
    click.get_current_context().with_resource(alone(run.work))
    if run.distillation is not None:
        check_teacher(run.distillation.teacher, "classification")  # before the pictures are read
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
    classifier.split(pictures, how)  # fails before a network is built
    teacher = None if run.distillation is None else label_teacher(run.distillation, pictures.classes)
    network = first_network(partial(Classifier, config=config), seed=run.seed, start=start)
    even_odds = classifier.has_even_odds(balance, run.distillation)
    run.begin(
        {"batch size": batch_size, "balance": balance}, data=labelled_digests(pictures), network=config, start=start
    )
    with closing(Watching(run)) as watching:
        trained, parts, _ = classifier.train_classifier(
            network,
            pictures,
            how,
            checkpoints=run.checkpoints,
            resume=run.resume,
            frozen_blocks=run.frozen_blocks,
            teacher=teacher,
            even_odds=even_odds,
            watchers=watching.watchers,
        )
    images, files = pixels_of(pictures.images, parts.test), [pictures.files[row] for row in parts.test.tolist()]
    logits = logits_of(trained)(images) / trained.temperature
    findings = classification_findings(
        logits, pictures.labels[parts.test], images, pictures.classes, files, which=held_out_from(run)
    ).leaving_out(len(pictures.skipped))
    card = run.card(replace(config, temperature=trained.temperature), recipe())
    if even_odds:
        stated = card.training_data.rstrip().removesuffix(".")
        card = replace(card, training_data=f"{stated}. {classifier.EVEN_ODDS_STATED}")
    finish(run, replace(card, labels=pictures.classes), trained, findings, watching)


@train.command(short_help="Train a detector on pictures with boxes (VOC or COCO).")
@run_options(
    size=240,
    steps=800,
    learning_rate=1e-3,
    start="base",
    frozen_blocks=5,
    augmentations=tuple(detector.AUGMENTATIONS),
    class_folders=False,
)
@click.option(
    "--width",
    type=click.IntRange(0, 2048),
    default=320,
    show_default=True,
    help="Width of the input in pixels; 0 uses --size.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 4096),
    default=8,
    show_default="8, or all that there are",
    help="Pictures in a batch.",
)
@click.option(
    "--annotations",
    type=PathType(dir_okay=False),
    help="COCO JSON file for the pictures in --data; without it, --data has the Pascal VOC layout.",
)
@click.option("--training-set", help="VOC image list to train on [default: train, if both train and val exist].")
@click.option("--test-set", help="VOC image list for the scores [default: val, if both train and val exist].")
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

    If VOC has no such lists, and with COCO, a fifth of the pictures is held out for the scores. A tenth of the others
    is held out to select the weights.
    """
    start = run.check()
    click.get_current_context().with_resource(alone(run.work))
    size = replace(run.preprocessing, width_px=width or run.size)
    parts = detector_parts(
        run.data,
        annotations,
        preprocessing=size,
        training_set=training_set,
        test_set=test_set,
        skip_bad=run.skip_bad,
    )
    if not given("batch_size"):
        batch_size = max(1, min(batch_size, len(parts.train)))
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
    detector.DetectorSampler(parts.train, batch=batch_size, seed=run.seed)  # fails if a batch is too large
    network = first_network(partial(FasterRCNN, config=config), seed=run.seed, start=start)
    network.eval()  # type: ignore[no-untyped-call]  # batches are too small for batch norm's statistics
    digests = boxed_digests([parts.train, parts.validation, parts.test])
    run.begin({"width": size.width_px, "batch size": batch_size}, data=digests, network=config, start=start)
    with closing(Watching(run)) as watching:
        trained, _, _ = detector.train_detector(
            network,
            parts.train,
            parts.validation,
            how,
            checkpoints=run.checkpoints,
            resume=run.resume,
            frozen_blocks=run.frozen_blocks,
            watchers=watching.watchers,
        )
    answers = embedder(trained, batch=8)(parts.test.images)
    findings = detection_findings(answers, parts.test, least_score=config.least_score, which=held_out_from(run))
    card = replace(run.card(config, recipe()), preprocessing=size, labels=parts.test.classes)
    finish(run, card, trained, findings, watching)


train.add_command(siamese_command)
