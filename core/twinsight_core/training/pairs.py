"""Lists of picture pairs whose truth is known, in the two forms that people have.

    LEFT,RIGHT,SAME[,FOLD]    comma- or tab-separated: two paths in the data, 1 or 0, and perhaps the protocol's fold;
                              a first line of names (`left,right,same`) is passed over
    LFW's pairs.txt           tab-separated: `NAME 1 4` for a same pair, `NAME 1 OTHER 2` for another; the first line
                              says how many folds there are and how many pairs of each kind a fold has

Source of the second: Huang et al., "Labeled Faces in the Wild", 2007, README of View 2.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twinsight_core.errors import TrainingError

_LFW_HEAD = re.compile(r"\d+(\t\d+)?")
_NAMED_FLAWS = 50


@dataclass(frozen=True)
class PairList:
    """Pairs of pictures.

    Attributes:
        files: paths of all pictures that are in a pair, in the data.
        left: [count] int64, index into `files`.
        right: [count] int64, index into `files`.
        same: [count] bool.
        folds: [count] int64, the protocol's folds, from 0; None where the list has none.
    """

    files: tuple[str, ...]
    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None


def read_pairs(path: Path, files: Sequence[str]) -> PairList:
    """Reads a list of pairs.

    Args:
        path: the list.
        files: paths of the pictures that the data has.

    Raises:
        TrainingError: the list can't be read, a line is malformed, or it names pictures that are not there; all such
            lines are named.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: can't be read as text ({error}).", reason="PAIRS_UNREADABLE") from error
    if not lines:
        raise TrainingError(f"{path}: the list is empty.", reason="PAIRS_EMPTY")
    read = _lfw(lines) if _LFW_HEAD.fullmatch(lines[0].strip()) else _table(lines)
    there, flaws, good = set(files), [], []
    for number, pair in read:
        if isinstance(pair, str):
            flaws.append(f"line {number}: {pair}")
            continue
        missing = [one for one in pair[:2] if one not in there]
        if missing:
            flaws.append(f"line {number}: there is no picture `{missing[0]}`")
        else:
            good.append(pair)
    if flaws or not good:
        shown = "; ".join(flaws[:_NAMED_FLAWS]) or "no pair in it"
        more = f"; and {len(flaws) - _NAMED_FLAWS} more" if len(flaws) > _NAMED_FLAWS else ""
        raise TrainingError(f"{path}: {shown}{more}.", reason="PAIRS_INVALID")
    names = tuple(sorted({one for pair in good for one in pair[:2]}))
    places = {name: number for number, name in enumerate(names)}
    folds = [pair[3] for pair in good]
    return PairList(
        files=names,
        left=np.array([places[pair[0]] for pair in good]),
        right=np.array([places[pair[1]] for pair in good]),
        same=np.array([pair[2] for pair in good]),
        folds=None if None in folds else np.array(folds, np.int64),
    )


_Pair = tuple[str, str, bool, int | None]


def _table(lines: Sequence[str]) -> list[tuple[int, _Pair | str]]:
    delimiter = "\t" if "\t" in lines[0] else ","
    read: list[tuple[int, _Pair | str]] = []
    for number, row in enumerate(csv.reader(lines, delimiter=delimiter), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells[2:3] == ["same"]):
            continue
        match cells:
            case [left, right, ("0" | "1") as same]:
                read.append((number, (left, right, same == "1", None)))
            case [left, right, ("0" | "1") as same, fold] if fold.isdecimal():
                read.append((number, (left, right, same == "1", int(fold))))
            case _:
                read.append((number, "it must be LEFT,RIGHT,SAME or LEFT,RIGHT,SAME,FOLD with SAME 0 or 1"))
    return read


def _lfw(lines: Sequence[str]) -> list[tuple[int, _Pair | str]]:
    head = [int(one) for one in lines[0].split()]
    per_fold = 2 * (head[1] if len(head) > 1 else head[0])
    read: list[tuple[int, _Pair | str]] = []
    pairs = [(number, line.split("\t")) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    for place, (number, cells) in enumerate(pairs):
        fold = place // per_fold if len(head) > 1 else None
        match cells:
            case [name, first, second] if first.isdecimal() and second.strip().isdecimal():
                read.append((number, (_lfw_file(name, first), _lfw_file(name, second), True, fold)))
            case [name, first, other, second] if first.isdecimal() and second.strip().isdecimal():
                read.append((number, (_lfw_file(name, first), _lfw_file(other, second), False, fold)))
            case _:
                read.append((number, "it must be NAME, NUMBER, NUMBER or NAME, NUMBER, NAME, NUMBER"))
    return read


def _lfw_file(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}.jpg"
