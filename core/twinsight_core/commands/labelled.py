"""What `evaluate` and `calibrate` share: their options, and labelled data as a model sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from twinsight_core.calibration import ScoredPairs
from twinsight_core.errors import TrainingError
from twinsight_core.packages import ModelPackage
from twinsight_core.training.data import LabelledImages, PictureSource, decode_files, read_class_folders
from twinsight_core.training.evaluate import embedder
from twinsight_core.training.pairs import PairList, read_pairs

DATA_OPTION = click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder or zip with the pictures."
)
MODEL_OPTION = click.option(
    "--model", required=True, help="A shipped model, a package's folder, or a name in --models-dir."
)
MODELS_DIR_OPTION = click.option(
    "--models-dir", type=click.Path(path_type=Path), envvar="TWINSIGHT_MODELS_DIR", help="Folder of further packages."
)
PAIRS_OPTION = click.option(
    "--pairs",
    type=click.Path(dir_okay=False, path_type=Path),
    help="List of pairs: LEFT,RIGHT,SAME[,FOLD] a line, or LFW's pairs.txt.",
)
SKIP_BAD_OPTION = click.option("--skip-bad", is_flag=True, help="Leave out what can't be read instead of stopping.")


def class_pictures(package: ModelPackage, data: Path, *, skip_bad: bool) -> LabelledImages:
    """Reads class folders at the size of a model."""
    return read_class_folders(data, preprocessing=package.card.preprocessing, skip_bad=skip_bad)


def labelled_pictures(package: ModelPackage, data: Path, *, skip_bad: bool) -> LabelledImages:
    """Reads class folders whose names are labels of the model; the labels count as the model counts them.

    Raises:
        TrainingError: a folder is no label of the model.
    """
    read = class_pictures(package, data, skip_bad=skip_bad)
    unknown = sorted(set(read.classes) - set(package.card.labels))
    if unknown:
        raise TrainingError(
            f"{data}: these classes are no labels of `{package.name}`: {', '.join(unknown)}. "
            f"It has: {', '.join(package.card.labels)}.",
            reason="LABEL_UNKNOWN",
        )
    places = np.array([package.card.labels.index(name) for name in read.classes], np.int32)
    return replace(read, labels=places[read.labels], classes=package.card.labels)


def scored_pairs(package: ModelPackage, data: Path, pairs: Path) -> tuple[ScoredPairs, PairList]:
    """Returns the cosines of a list's pairs, and the list."""
    source = PictureSource(data)
    listed = read_pairs(pairs, source.files)
    embeddings = embedder(package.build())(decode_files(source, listed.files, preprocessing=package.card.preprocessing))
    cosine = np.sum(embeddings[listed.left] * embeddings[listed.right], axis=1)
    return ScoredPairs(cosine=cosine, same=listed.same), listed
