"""What `evaluate` and `calibrate` share: their options, and labelled data as a model sees it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import click
import numpy as np

from twinsight_core.calibration import ScoredPairs
from twinsight_core.commands.options import refuse_options
from twinsight_core.commands.paths import PathType
from twinsight_core.errors import TrainingError
from twinsight_core.packages import ModelPackage
from twinsight_core.training.data import LabelledImages, read_class_folders, tell_skipped
from twinsight_core.training.evaluate import embedder
from twinsight_core.training.files import composed
from twinsight_core.training.siamese_pairs import PairPictures, read_pair_pictures

DATA_OPTION = click.option(
    "--data",
    type=PathType(),
    required=True,
    help="Folder or zip with the pictures. Of data in parts (train/, val/, test/) name one: DIR/test.",
)
MODEL_OPTION = click.option(
    "--model", required=True, help="A shipped model, a package folder, or a name in --models-dir."
)
MODELS_DIR_OPTION = click.option(
    "--models-dir", type=PathType(), envvar="TWINSIGHT_MODELS_DIR", help="Folder of further packages."
)
PAIRS_OPTION = click.option(
    "--pairs",
    type=PathType(dir_okay=False),
    help="List of pairs: LEFT,RIGHT,SAME[,FOLD] per line, or LFW's pairs.txt.",
)
SKIP_BAD_OPTION = click.option("--skip-bad", is_flag=True, help="Skip what can't be read instead of stopping.")


def class_pictures(package: ModelPackage, data: Path, *, skip_bad: bool) -> LabelledImages:
    """Reads class folders at the size of a model; logs what is skipped.

    Raises:
        TrainingError: see `read_class_folders`; or the data comes in parts, some of which the model may have seen.
    """
    read = read_class_folders(data, preprocessing=package.card.preprocessing, skip_bad=skip_bad, one_part=True)
    tell_skipped(read.skipped)
    return read


def labelled_pictures(package: ModelPackage, data: Path, *, skip_bad: bool) -> LabelledImages:
    """Reads class folders whose names are labels of the model; label numbers are the model's.

    Raises:
        TrainingError: a folder is not a label of the model.
    """
    read = class_pictures(package, data, skip_bad=skip_bad)
    numbers = {composed(label): number for number, label in enumerate(package.card.labels)}
    names = _as_labels(read, numbers)
    unknown = sorted(set(names) - numbers.keys())
    if unknown:
        raise TrainingError(
            f"{data}: `{package.name}` has no labels for these classes: {', '.join(unknown)}; "
            f"available: {', '.join(package.card.labels)}.",
            reason="LABEL_UNKNOWN",
        )
    places = np.array([numbers[name] for name in names], np.int32)
    return replace(read, labels=places[read.labels], classes=package.card.labels)


def _as_labels(read: LabelledImages, labels: Container[str]) -> Sequence[str]:
    """Returns the classes' names; with folders above that they share, if they are labels that way alone.

    A class is named without these (`class_folders`), which hold further classes where a model was trained on more.
    """
    if not read.files or all(name in labels for name in read.classes):
        return read.classes
    folder = PurePosixPath(composed(read.files[0])).parent.parts
    shared = folder[: -len(PurePosixPath(read.classes[read.labels[0]]).parts)]
    for first in range(len(shared)):
        longer = ["/".join((*shared[first:], name)) for name in read.classes]
        if all(name in labels for name in longer):
            return longer
    return read.classes


def listed_pictures(package: ModelPackage, data: Path, listed: Path, *, skip_bad: bool = False) -> PairPictures:
    """Returns the pairs of a list, and their pictures at the model's size; logs what is skipped.

    Args:
        package: an embedding model.
        data: folder or zip with the pictures.
        listed: the list.
        skip_bad: leave out pictures that can't be read, with the pairs that need them.

    Raises:
        click.UsageError: --groups was given.
        TrainingError: see `read_pair_pictures`.
    """
    refuse_options(("groups",), why="--pairs: a list of pairs has no groups")
    read = read_pair_pictures(data, listed, preprocessing=package.card.preprocessing, skip_bad=skip_bad)
    tell_skipped(read.skipped)
    return read


def scored_pairs(package: ModelPackage, read: PairPictures) -> ScoredPairs:
    """Returns the cosine of each pair of a list, and its truth."""
    embeddings = embedder(package.build())(read.images)
    cosine = np.sum(embeddings[read.pairs.left] * embeddings[read.pairs.right], axis=1)
    return ScoredPairs(cosine=cosine, same=read.pairs.same)
