"""Evaluates a trained embedding: the scores of its card and its calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from twinsight_core.calibration import ScoredPairs
from twinsight_core.evaluation.retrieval import retrieval_scores
from twinsight_core.images import Preprocessing
from twinsight_core.training.data import PictureSource, decode_files
from twinsight_core.training.edits import EDITS, edited_copy
from twinsight_core.training.evaluate import Embed, copy_recall
from twinsight_core.training.recipe import LoadedSet

Part = Callable[[LoadedSet], tuple[str, ...]]
"""The classes of a set that are measured."""


def validation_score(
    embed: Embed, sets: Sequence[LoadedSet], *, preprocessing: Preprocessing, most: int = 600
) -> dict[str, float]:
    """Returns MAP@R on the validation classes of each set, by the set's name.

    Args:
        embed: the embedding.
        sets: the pictures.
        preprocessing: the embedding's.
        most: pictures of a set that are looked at, the first of each class alike.
    """
    scores = {}
    for one in sets:
        rows = one.rows(one.split.validation)
        each = max(2, most // len(one.split.validation))
        labels = one.pictures.labels[rows]
        kept = np.concatenate([rows[labels == label][:each] for label in np.unique(labels)])
        score = retrieval_scores(embed(one.decoded(kept, preprocessing)), one.pictures.labels[kept])
        scores[one.config.name] = score.map_at_r
    return scores


@dataclass(frozen=True)
class Gallery:
    """All pictures of some classes of every set, embedded.

    Attributes:
        embeddings: [count, dimension] float32, unit vectors.
        labels: [count] int64, class over all sets.
        sets: [count] int64, number of the picture's set.
        rows: [count] int64, row of the picture in its set.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    sets: np.ndarray
    rows: np.ndarray


def gallery(sets: Sequence[LoadedSet], part: Part, embed: Callable[[LoadedSet, np.ndarray], np.ndarray]) -> Gallery:
    """Returns the pictures of a part of every set.

    Args:
        sets: the pictures.
        part: which classes.
        embed: a set and rows of it -> [count, dimension] float32, unit vectors.
    """
    rows = [one.rows(part(one)) for one in sets]
    first = np.cumsum([0] + [len(one.pictures.classes) for one in sets])
    return Gallery(
        embeddings=np.concatenate([embed(one, places) for one, places in zip(sets, rows, strict=True)]),
        labels=np.concatenate(
            [one.pictures.labels[places] + start for one, places, start in zip(sets, rows, first, strict=False)]
        ),
        sets=np.concatenate([np.full(len(places), number) for number, places in enumerate(rows)]),
        rows=np.concatenate(rows),
    )


@dataclass(frozen=True)
class Copies:
    """Edited copies of some of a gallery's pictures, every edit of each.

    Attributes:
        originals: [count] int64, row of each copy's original in the gallery.
        kinds: [count] str, the edit's name.
        embeddings: [count, dimension] float32, unit vectors.
    """

    originals: np.ndarray
    kinds: np.ndarray
    embeddings: np.ndarray


def embed_copies(
    sets: Sequence[LoadedSet], among: Gallery, embed: Embed, *, each: int, preprocessing: Preprocessing, seed: int
) -> Copies:
    """Returns copies of random pictures of a gallery.

    Args:
        sets: the sets that the gallery is of.
        among: the gallery.
        embed: the embedding.
        each: pictures of every set.
        preprocessing: the embedding's.
        seed: of the choice; equal seeds choose equal pictures whatever the embedding.
    """
    rng = np.random.default_rng(seed)
    originals, kinds, embeddings = [], [], []
    for number, one in enumerate(sets):
        places = np.flatnonzero(among.sets == number)
        chosen = np.sort(rng.choice(places, min(each, len(places)), replace=False))
        files = [one.pictures.files[row] for row in among.rows[chosen]]
        source = PictureSource(one.path)
        for kind in EDITS:
            pixels = decode_files(source, files, preprocessing=preprocessing, edit=partial(edited_copy, kind=kind))
            originals.append(chosen)
            kinds.append(np.full(len(chosen), kind))
            embeddings.append(embed(pixels))
    return Copies(
        originals=np.concatenate(originals), kinds=np.concatenate(kinds), embeddings=np.concatenate(embeddings)
    )


def copy_scores(copies: Copies, among: Gallery) -> dict[str, float]:
    """Returns the share of copies whose closest picture is their original: of all, and by the edit's name."""
    scores = {"all": copy_recall(copies.embeddings, among.embeddings, copies.originals)}
    for kind in EDITS:
        of_kind = copies.kinds == kind
        scores[kind] = copy_recall(copies.embeddings[of_kind], among.embeddings, copies.originals[of_kind])
    return scores


def copy_pairs(copies: Copies, among: Gallery, *, seed: int) -> ScoredPairs:
    """Returns pairs for the calibration, half of them the same.

    Each copy makes two pairs: with its original, and with another picture, by turns any of another class and any of
    its original's own class, the hard ones. A picture has a copy of every edit, and pictures of a class are mistaken
    for each other alike, so the pairs come with the classes of their pictures.

    Args:
        copies: the copies.
        among: the gallery of their originals.
        seed: of the choice of other pictures.
    """
    rng = np.random.default_rng(seed)
    same = np.sum(copies.embeddings * among.embeddings[copies.originals], axis=1)
    others = np.empty(len(copies.originals), np.int64)
    for number, original in enumerate(copies.originals):
        alike = among.labels == among.labels[original]
        candidates = np.flatnonzero(alike if number % 2 else ~alike)
        others[number] = rng.choice(candidates[candidates != original])
    different = np.sum(copies.embeddings * among.embeddings[others], axis=1)
    right = among.labels[np.concatenate([copies.originals, others])]
    return ScoredPairs(
        cosine=np.concatenate([same, different]),
        same=np.repeat([True, False], [len(same), len(different)]),
        classes=np.stack([np.tile(among.labels[copies.originals], 2), right], axis=1),
    )
