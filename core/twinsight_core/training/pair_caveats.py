"""The caveats of a list of pairs, and of the parts made from it, for interpreting scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from pathlib import PurePosixPath

import numpy as np

from twinsight_core.training.pairs import PairList, one_identity


def uncounted(pairs: PairList) -> str:
    """Returns what in a list carries no information, in sentences that each begin with a space; empty if nothing."""
    told = ""
    if pairs.repeats:
        told += (
            f" {pairs.repeats} lines list a pair again, or exact copies of its pictures, and are ignored: each pair "
            "counts once."
        )
    of_one = pairs.originals[pairs.left] == pairs.originals[pairs.right]
    if alike := int((of_one & pairs.same).sum()):
        told += f" {alike} of the same pairs are a picture with itself or an exact copy, which any model recognises."
    if contrary := int((of_one & ~pairs.same).sum()):
        told += f" {contrary} of the different pairs are a picture and an exact copy of it, and labelled wrongly."
    return told


def caveats(pairs: PairList, parts: Sequence[np.ndarray]) -> str:
    """Returns the caveats of parts of a list, in sentences that each begin with a space; empty if none.

    Args:
        pairs: the list.
        parts: for each the pairs in it, [n] int64, as `deal` made them.
    """
    told = uncounted(pairs)
    identities = one_identity(pairs)
    if pairs.folds is not None:
        pictures = [np.unique(np.concatenate([pairs.left[part], pairs.right[part]])) for part in parts]
        if copied := _in_several([set(pairs.originals[some].tolist()) for some in pictures]):
            told += f" {copied} pictures are in several parts, as exact copies under other names."
        folders = [PurePosixPath(file).parent for file in pairs.files]
        if shared := _in_several([{folders[one] for one in some.tolist()} & identities for some in pictures]):
            told += (
                f" {shared} folders that are one identity each have pairs in several parts: identities are not held "
                "out, and on others the model may be worse."
            )
        return told
    if (apart := len(pairs.same) - sum(len(part) for part in parts)) > 0:
        told += f" {apart} different pairs of the list's {len(pairs.same)} pairs are left out: they link two parts."
    if identities != {PurePosixPath(file).parent for file in pairs.files}:
        told += (
            " Folders do not stand for identities here, since different pairs lie within one, or same and different "
            "ones between two: identities are known from same pairs alone, and whether one is in two parts can't be "
            "checked."
        )
    return told


def _in_several(parts: Sequence[Collection[Hashable]]) -> int:
    """Returns how many things are in two parts or more."""
    found = Counter(one for part in parts for one in part)
    return sum(count > 1 for count in found.values())
