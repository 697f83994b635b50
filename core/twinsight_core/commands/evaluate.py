"""`twinsight evaluate`: measure a model on labelled data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

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
from twinsight_core.commands.options import refuse_options, told
from twinsight_core.commands.output import write_json, write_line
from twinsight_core.commands.paths import PathType
from twinsight_core.errors import TrainingError
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.packages import ModelPackage, find_package
from twinsight_core.training.boxes import read_coco, read_voc
from twinsight_core.training.copies import without_copies
from twinsight_core.training.evaluate import embedder, logits_of
from twinsight_core.training.findings import (
    classification_findings,
    detection_findings,
    embedding_findings,
    pair_findings,
)
from twinsight_core.training.pair_caveats import uncounted
from twinsight_core.training.report import Findings, write_report

DETECTION_BATCH = 8
AS_GIVEN = "as given; whether the model was trained on them is unknown"


@click.command()
@MODEL_OPTION
@MODELS_DIR_OPTION
@DATA_OPTION
@PAIRS_OPTION
@SKIP_BAD_OPTION
@click.option("--groups", is_flag=True, help="Keep pairs and trials within groups (folders of class folders).")
@click.option(
    "--annotations",
    type=PathType(dir_okay=False),
    help="For a detector: COCO JSON file for the pictures in --data; without it, --data has the Pascal VOC layout.",
)
@click.option("--image-set", help="For a detector: VOC image list to use; all pictures without it.")
@click.option("--report", type=PathType(dir_okay=False), help="HTML report to write.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@told
def evaluate(
    *,
    model: str,
    models_dir: Path | None,
    data: Path,
    pairs: Path | None,
    skip_bad: bool,
    groups: bool,
    annotations: Path | None,
    image_set: str | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Measure a model on labelled pictures: class folders, pairs, or boxes.

    Classifier: top-1 and top-5 accuracy, recall per class, calibration. Embedding: Recall@K, R-precision, MAP@R;
    verification with AUC, EER and TAR at FAR; the calibration's errors; N-way one-shot if classes come in groups; with
    a list of pairs also the accuracy over its folds. Detector: COCO's average precision; with --skip-bad, detections in
    a flawed box don't count, and a picture with a flawed box that covers nothing is left out.
    """
    package = find_package(model, models_dir)
    _check_options(package, annotations)
    try:
        if package.card.task == "detection":
            findings = _detections(package, data, annotations, image_set=image_set, skip_bad=skip_bad)
        else:
            findings = _measured(package, data, pairs, skip_bad=skip_bad, groups=groups)
    except ValueError as error:  # of the measures: too few classes, say
        raise TrainingError(f"{data}: not enough data: {error}", reason="DATA_INSUFFICIENT") from error
    if as_json:
        told_of = {"model": package.name, "digest": package.digest, "protocol": findings.protocol}
        mistakes = [one.caption for one in findings.mistakes]
        write_json(told_of | {"scores": findings.scores, "mistakes": mistakes})
    else:
        write_line(findings.protocol)
        for name, value in findings.scores.items():
            write_line(f"{name:44} {value:.4f}")
    if report is not None:
        write_report(report, package, findings)


def _check_options(package: ModelPackage, annotations: Path | None) -> None:
    """Rejects options that have no effect on the model's task.

    Raises:
        click.UsageError: there are any.
    """
    match package.card.task:
        case "classification":
            without = ("pairs", "groups", "annotations", "image_set")
            refuse_options(without, why=f"`{package.name}`: a classifier is measured on class folders")
        case "embedding":
            boxed = ("annotations", "image_set")
            refuse_options(boxed, why=f"`{package.name}`: an embedding is measured on class folders or pairs")
        case "detection":
            refuse_options(("pairs", "groups"), why=f"`{package.name}`: a detector is measured on boxes")
            if annotations is not None:
                refuse_options(("image_set",), why="--annotations: lists of pictures are Pascal VOC's")


def _measured(package: ModelPackage, data: Path, pairs: Path | None, *, skip_bad: bool, groups: bool) -> Findings:
    if package.card.task == "embedding":
        if pairs is not None:
            read_pairs = listed_pictures(package, data, pairs, skip_bad=skip_bad)
            scored, listed = scored_pairs(package, read_pairs), read_pairs.pairs
            findings = pair_findings(
                scored,
                listed.folds,
                rows=listed.sides,
                images=read_pairs.images,
                files=listed.files,
                calibration=package.card.calibration,
            )
            protocol = findings.protocol + uncounted(listed)
            return replace(findings, protocol=protocol).leaving_out(len(read_pairs.skipped))
        read, copies = without_copies(class_pictures(package, data, skip_bad=skip_bad))
        grouped = read.groups()[read.labels] if groups else None
        embeddings = embedder(package.build())(read.images)
        findings = embedding_findings(
            embeddings,
            read.labels,
            grouped,
            read.images,
            read.files,
            which=AS_GIVEN,
            calibration=package.card.calibration,
        )
        return findings.leaving_out(len(read.skipped), copies=copies)
    read = labelled_pictures(package, data, skip_bad=skip_bad)
    network = package.build()
    if not isinstance(network, Classifier):
        raise TypeError("A package for classification is a classifier.")
    logits = logits_of(network)(read.images) / network.temperature
    findings = classification_findings(
        logits, read.labels, read.images, package.card.labels, read.files, which=AS_GIVEN
    )
    return findings.leaving_out(len(read.skipped))


def _detections(
    package: ModelPackage, data: Path, annotations: Path | None, *, image_set: str | None, skip_bad: bool
) -> Findings:
    size, classes, config = package.card.preprocessing, package.card.labels, package.card.config
    if not isinstance(config, FasterRCNNConfig):
        raise TypeError("A package for detection is a Faster R-CNN.")
    read = (
        read_voc(data, preprocessing=size, image_set=image_set, classes=classes, skip_bad=skip_bad)
        if annotations is None
        else read_coco(annotations, data, preprocessing=size, classes=classes, skip_bad=skip_bad)
    )
    answers = embedder(package.build(), batch=DETECTION_BATCH)(read.images)
    return detection_findings(answers, read, least_score=config.least_score, which=AS_GIVEN)
