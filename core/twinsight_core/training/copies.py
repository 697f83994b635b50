"""Finds exact copies among pictures: the same pixels under several names.

Repeated downloads or exports of a labelling tool would otherwise be both trained on and scored. Near copies (frames of
one scene, edits) are not found: put them in folders of their own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from twinsight_core.errors import TrainingError
from twinsight_core.training.data import LabelledImages
from twinsight_core.training.pairs import PairList, of_several

_LOG = logging.getLogger(__name__)

# Further ones are only counted.
_NAMED_COPIES = 20


def first_copies(images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Returns the first row with the same pixels for each picture, [count] int64; its own if there is no other.

    Args:
        images: [count, height, width, 3] uint8, RGB, 0..255; may be mapped from a file, of which most pictures are only
            read in part.
    """
    # One line of pixels distinguishes most pictures.
    lines = [hashlib.sha256(image[len(image) // 2].tobytes()).digest() for image in images]
    rows: dict[bytes, list[int]] = {}
    for row, line in enumerate(lines):
        rows.setdefault(line, []).append(row)
    firsts = np.arange(len(images))
    for alike in rows.values():
        known: dict[bytes, int] = {}
        for row in alike if len(alike) > 1 else ():
            firsts[row] = known.setdefault(hashlib.sha256(images[row].tobytes()).digest(), row)
    return firsts


def in_order(files: Sequence[str], firsts: np.ndarray) -> list[int]:
    """Returns the rows in an order that depends only on the pictures' paths, with copies next to each other.

    Args:
        files: [count] path of each picture.
        firsts: `first_copies` of the pictures.
    """
    own = [hashlib.sha256(file.encode()).digest() for file in files]
    keys: dict[int, bytes] = {}
    for row, first in enumerate(firsts.tolist()):
        keys[first] = min(own[row], keys.get(first, own[row]))
    return sorted(range(len(files)), key=lambda row: (keys[int(firsts[row])], own[row]))


def in_two_classes(labels: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """Returns which pictures have a copy in another class, [count] bool."""
    other = labels != labels[firsts]
    shared: np.ndarray = np.isin(firsts, firsts[other])
    return shared


def without_copies(pictures: LabelledImages) -> tuple[LabelledImages, int]:
    """Returns the pictures without exact copies of others of their class, and how many those were; logs all copies.

    Where pictures are compared with one another, copies find each other, whatever the model is worth.
    """
    firsts = first_copies(pictures.images)
    _tell(pictures, firsts, "those of one class are left out")
    rows = distinct(pictures.labels, firsts)
    copies = len(pictures) - len(rows)
    return (pictures.of_rows(rows), copies) if copies else (pictures, 0)


def counted_once(pairs: PairList) -> PairList:
    """Returns the list without pairs of exact copies of pictures that an earlier pair has; needs `firsts`.

    Raises:
        TrainingError: two pairs of copies contradict each other; all of them are listed.
    """
    said: dict[tuple[int, int], int] = {}
    kept, flaws = np.ones(len(pairs.same), np.bool_), []
    for row, sides in enumerate(np.sort(pairs.originals[pairs.sides], axis=1).tolist()):
        first = said.setdefault((sides[0], sides[1]), row)
        if first == row:
            continue
        kept[row] = False
        if pairs.same[row] != pairs.same[first]:
            (one, other), (copy, of) = (
                [f"`{pairs.files[side]}`" for side in pairs.sides[number]] for number in (first, row)
            )
            kind = "the same" if pairs.same[first] else "different"
            flaws.append(f"{one} and {other} are listed as {kind}, and exact copies of them, {copy} and {of}, are not.")
    if flaws:
        raise TrainingError("The pairs contradict each other:", reason="PAIRS_INVALID", listed=flaws)
    return replace(
        pairs,
        left=pairs.left[kept],
        right=pairs.right[kept],
        same=pairs.same[kept],
        folds=None if pairs.folds is None else pairs.folds[kept],
        repeats=pairs.repeats + int((~kept).sum()),
        of_several=of_several(pairs),
    )


def distinct_pictures(pictures: LabelledImages) -> LabelledImages:
    """Returns the pictures without exact copies, and without those that are in several classes, which it logs."""
    firsts = first_copies(pictures.images)
    _tell(pictures, firsts, "copies are left out")
    rows = distinct(pictures.labels, firsts)
    return pictures.of_rows(rows[~in_two_classes(pictures.labels, firsts)[rows]])


def distinct(labels: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """Returns the places of pictures that are no copies of others of their class before them, [count] int64, rising.

    Args:
        labels: [count] int32, class of each picture.
        firsts: [count] int64, `first_copies` of the pictures.
    """
    places = np.unique(np.stack([labels, firsts]), axis=1, return_index=True)[1]
    return np.sort(places)


def tell_copies(pictures: LabelledImages) -> None:
    """Logs how many pictures are copies of others, and which are in several classes: one of the labels is wrong."""
    _tell(pictures, first_copies(pictures.images), "copies are held out together")


def _tell(pictures: LabelledImages, firsts: np.ndarray, how: str) -> None:
    copies = int((firsts != np.arange(len(firsts))).sum())
    if copies:
        _LOG.info("%d pictures are exact copies of others; %s", copies, how)
    shared = np.flatnonzero(in_two_classes(pictures.labels, firsts))
    groups = [shared[firsts[shared] == first] for first in np.unique(firsts[shared])]
    for rows in groups[:_NAMED_COPIES]:
        _LOG.warning("the same picture is in several classes: %s", ", ".join(pictures.files[row] for row in rows))
    if len(groups) > _NAMED_COPIES:
        _LOG.warning("so are %d more", len(groups) - _NAMED_COPIES)
