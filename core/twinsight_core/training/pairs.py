"""Lists of picture pairs with known truth, in the two common formats.

    LEFT,RIGHT,SAME[,FOLD]    comma- or tab-separated: two paths in the data, 1 or 0, and optionally the protocol's
                              fold; a header line (`left,right,same`, in any case) is skipped
    LFW's pairs.txt           tab-separated: `NAME 1 4` for a same pair, `NAME 1 OTHER 2` for a different one; the first
                              line has the number of folds and the number of pairs of each kind per fold, same pairs
                              first; or, without folds, only the second number

A pair that is listed again, in either order, counts once: otherwise rates would seem to be over more pairs than exist.

Source of the second: Huang et al., "Labeled Faces in the Wild", 2007, README of View 2.
"""

from __future__ import annotations

import csv
import heapq
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath

import numpy as np

from twinsight_core.errors import TrainingError
from twinsight_core.training.files import composed

_LFW_HEAD = re.compile(r"\d{1,9}(\t\d{1,9})?")
_NUMBER = re.compile(r"\d{1,9}")
_NAMED_FLAWS = 50


@dataclass(frozen=True)
class PairList:
    """Pairs of pictures.

    Attributes:
        files: paths in the data of all pictures that are in a pair, or in one that was left out as copies of another.
        left: [count] int64, index into `files`.
        right: [count] int64, index into `files`.
        same: [count] bool.
        folds: [count] int64, the protocol's folds, from 0; None if the list has none.
        repeats: lines that were left out because they list a pair again, or exact copies of its pictures.
        firsts: [files] int64, for each picture the first in `files` with the same pixels; None: they were not looked
            at, and each counts as another.
        of_several: folders that are not one identity, as the pairs that were left out show.
    """

    files: tuple[str, ...]
    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None
    repeats: int = 0
    firsts: np.ndarray | None = None
    of_several: frozenset[PurePosixPath] = frozenset()

    @property
    def originals(self) -> np.ndarray:
        """`firsts`, or where they are not known each picture itself."""
        return np.arange(len(self.files)) if self.firsts is None else self.firsts

    @property
    def sides(self) -> np.ndarray:
        """The two pictures of each pair, [count, 2] int64."""
        return np.stack([self.left, self.right], axis=1)


def read_pairs(path: Path, files: Sequence[str]) -> PairList:
    """Reads a list of pairs; if a pair is listed more than once, the first is kept.

    Args:
        path: the list.
        files: paths of the pictures in the data.

    Raises:
        TrainingError: the list can't be read, a line is malformed, contradicts an earlier one, or names a picture that
            does not exist; all such lines are listed. Or all its pairs are of one kind.
    """
    try:
        # Spreadsheets write a byte order mark.
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: can't be read as text ({error}).", reason="PAIRS_UNREADABLE") from error
    if not lines:
        raise TrainingError(f"{path}: the list is empty.", reason="PAIRS_EMPTY")
    read = _lfw(lines) if _LFW_HEAD.fullmatch(lines[0].strip()) else _table(lines)
    there = {composed(file): file for file in files} | {file: file for file in files}
    flaws, good = [], []
    said: dict[frozenset[str], tuple[int, bool]] = {}
    repeats = 0
    for number, pair in read:
        if isinstance(pair, str):
            flaws.append(f"line {number}: {pair}")
            continue
        left, right = (there.get(one) or there.get(composed(one), "") for one in pair[:2])
        if not (left and right):
            flaws.append(f"line {number}: there is no picture `{pair[1] if left else pair[0]}`")
            continue
        same = pair[2]
        first, before = said.setdefault(frozenset((left, right)), (number, same))
        if left == right and not same:
            flaws.append(f"line {number}: `{left}` can't be different from itself")
        elif before != same:
            flaws.append(
                f"line {number}: contradicts line {first}, which lists `{left}` and `{right}` as "
                f"{'the same' if before else 'different'}"
            )
        elif first != number:
            repeats += 1
        else:
            good.append((left, right, same, pair[3]))
    if flaws or not good:
        shown = "; ".join(flaws[:_NAMED_FLAWS]) or "no pair in it"
        more = f"; and {len(flaws) - _NAMED_FLAWS} more" if len(flaws) > _NAMED_FLAWS else ""
        raise TrainingError(f"{path}: {shown}{more}.", reason="PAIRS_INVALID")
    kinds = {pair[2] for pair in good}
    if len(kinds) == 1:
        only, other = ("same", "different") if True in kinds else ("different", "same")
        raise TrainingError(
            f"{path}: the list must have pairs of both kinds; all {len(good)} are {only}, none are {other}.",
            reason="PAIRS_ONE_KIND",
        )
    names = tuple(sorted({one for pair in good for one in pair[:2]}))
    places = {name: number for number, name in enumerate(names)}
    folds = [pair[3] for pair in good]
    if None in folds and set(folds) != {None}:
        raise TrainingError(f"{path}: FOLD must be in every line or in none.", reason="PAIRS_INVALID")
    return PairList(
        files=names,
        left=np.array([places[pair[0]] for pair in good]),
        right=np.array([places[pair[1]] for pair in good]),
        same=np.array([pair[2] for pair in good]),
        folds=None if None in folds else np.array(folds, np.int64),
        repeats=repeats,
    )


def without(pairs: PairList, files: Collection[str]) -> PairList:
    """Returns the list without the pairs that need some pictures, and without pictures that no other pair needs.

    Args:
        pairs: the list.
        files: paths of the pictures to leave out.
    """
    unwanted = set(files)
    gone = np.array([file in unwanted for file in pairs.files], np.bool_)
    kept = ~(gone[pairs.left] | gone[pairs.right])
    used, sides = np.unique(np.stack([pairs.left[kept], pairs.right[kept]]), return_inverse=True)
    left, right = sides.reshape(2, -1)
    return PairList(
        files=tuple(pairs.files[number] for number in used),
        left=left,
        right=right,
        same=pairs.same[kept],
        folds=None if pairs.folds is None else pairs.folds[kept],
        repeats=pairs.repeats,
        of_several=of_several(pairs),
    )


def halves(pairs: PairList, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits a list into two halves that share no picture: one to choose by, one to measure on; see `deal`.

    Args:
        pairs: the list.
        seed: of the order in which linked pictures are dealt, if there are no folds.

    Returns:
        Which pairs are in the first half and which in the second, each [count] bool.

    Raises:
        TrainingError: there are no such halves with pairs of both kinds in each.
    """
    shares = {"the first half": 0.5, "the second half": 0.5}
    first, second = deal(pairs, shares, seed=seed, remedy="give a FOLD column by which they can").values()
    return first, second


def deal(pairs: PairList, shares: Mapping[str, float], *, seed: int, remedy: str) -> dict[str, np.ndarray]:
    """Deals a list into parts that share no picture and have pairs of both kinds each.

    Folds stay whole and are dealt in order, at least one to each part. Without folds, pictures are linked if they are
    in one pair or in one folder that is one identity (`one_identity`); linked pictures stay together, and go to the
    part that lacks them most. If the pairs link too much for that (different pairs drawn at random link everything),
    only identities stay together: pictures that same pairs or such folders link. Each part then grows along the
    different pairs, and pairs across two parts are in none.

    Args:
        pairs: the list.
        shares: of the pairs, by the parts' names; together 1. A part gets about its share, as whole folds or links
            allow.
        seed: of the order in which linked pictures are dealt, if there are no folds.
        remedy: for the message: what to do if the pairs can't be dealt.

    Returns:
        Which pairs are in each part, [count] bool, by the parts' names; no pair is in two, and with folds each is in
        one.

    Raises:
        TrainingError: there are fewer folds than parts, folds of two parts share pictures, or a part would have no
            pairs of one kind.
    """
    wanted = np.array(list(shares.values()))

    def named(numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {name: numbers == number for number, name in enumerate(shares)}

    def counted(parts: dict[str, np.ndarray]) -> dict[str, tuple[int, int]]:
        return {name: (int(pairs.same[part].sum()), int((~pairs.same[part]).sum())) for name, part in parts.items()}

    numbers = _folds_dealt(pairs.folds, wanted) if pairs.folds is not None else _links_dealt(pairs, wanted, seed)
    parts = named(numbers)
    counts = counted(parts)
    if pairs.folds is None and any(0 in of_part for of_part in counts.values()):
        apart = named(_identities_dealt(pairs, wanted, seed))
        if not any(0 in of_part for of_part in counted(apart).values()):
            return apart
    if any(0 in of_part for of_part in counts.values()):
        told = ", ".join(f"{same} same and {other} different in {name}" for name, (same, other) in counts.items())
        raise TrainingError(
            f"The {len(numbers)} pairs can't be split so that no picture is in two parts and each part has pairs of "
            f"both kinds: there would be {told}; {remedy}.",
            reason="PAIRS_NOT_DEALT",
        )
    pictures = {name: np.union1d(pairs.left[part], pairs.right[part]) for name, part in parts.items()}
    for one, other in combinations(pictures, 2):
        shared = np.intersect1d(pictures[one], pictures[other])
        if len(shared):
            raise TrainingError(
                f"The folds of {one} and those of {other} must not share pictures; {len(shared)} are in both, such as "
                f"{pairs.files[shared[0]]}.",
                reason="PAIRS_NOT_DEALT",
            )
    return parts


def _folds_dealt(folds: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Returns the number of each pair's part when folds stay whole, [count] int64."""
    distinct, places = np.unique(folds, return_inverse=True)
    count, parts = len(distinct), len(shares)
    if count < parts:
        raise TrainingError(
            f"The list's FOLD column must name at least {parts} folds, one for each part; it names {count}.",
            reason="PAIRS_NOT_DEALT",
        )
    ends: list[int] = []
    for number, share in enumerate(np.cumsum(shares)[:-1], start=1):
        # Rounded half up; no part is left without a fold.
        ends.append(min(max(int(share * count + 0.5), ends[-1] + 1 if ends else 1), count - parts + number))
    dealt: np.ndarray = np.searchsorted(ends, places, side="right")
    return dealt


def _links_dealt(pairs: PairList, shares: np.ndarray, seed: int) -> np.ndarray:
    """Returns the number of each pair's part when linked pictures stay together, [count] int64."""
    links = _linked(pairs, np.ones(len(pairs.same), np.bool_))[pairs.left]
    # Same and different pairs of each, as shares of all, so that the parts are alike in both.
    weights = np.stack(
        [np.bincount(links, weights=kind) / max(1, kind.sum()) for kind in (pairs.same, ~pairs.same)], axis=1
    )
    # Even of few, a small part needs one.
    fewest = int((weights > 0).sum(axis=0).min())
    shares = np.maximum(shares, 1 / max(len(shares), fewest))
    shares /= shares.sum()
    order = np.random.default_rng(seed).permutation(np.unique(links))
    # The largest first: the small ones at the end even out the rest.
    order = order[np.argsort(-weights[order].sum(axis=1), kind="stable")]
    held, parts = np.zeros((len(shares), 2)), np.zeros(len(weights), np.int64)
    for link in order:
        # The sum of held^2 / share is least where all parts hold their shares; each link adds as little as it can.
        parts[link] = np.argmin((2 * held + weights[link]) @ weights[link] / shares)
        held[parts[link]] += weights[link]
    dealt: np.ndarray = parts[links]
    return dealt


def _identities_dealt(pairs: PairList, shares: np.ndarray, seed: int) -> np.ndarray:
    """Returns the number of each pair's part when identities stay together, [count] int64; -1 if its sides are apart.

    The smallest part comes first: it takes one identity, then repeatedly the one that the most different pairs link to
    those it has, until it holds its share. The largest part gets the rest. Dealt at random, a tenth of the identities
    would keep a hundredth of the different pairs.
    """
    identities = np.unique(_linked(pairs, pairs.same), return_inverse=True)[1]
    left, right = identities[pairs.left], identities[pairs.right]
    linking = np.flatnonzero(~pairs.same & (left != right))
    others: list[list[int]] = [[] for _ in range(len(pairs.files))]
    for one, other in zip(left[linking].tolist(), right[linking].tolist(), strict=True):
        others[one].append(other)
        others[other].append(one)
    # A pair counts for both of its sides, half each.
    size = (np.bincount(left, minlength=len(others)) + np.bincount(right, minlength=len(others))) / 2
    order = np.random.default_rng(seed).permutation(int(identities.max()) + 1).tolist()
    smallest_first = np.argsort(shares, kind="stable").tolist()
    parts = np.full(len(others), smallest_first[-1])
    free = set(order)
    for part in smallest_first[:-1]:
        held, links = 0.0, dict.fromkeys(order, 0)
        nearest = [(0, place, one) for place, one in enumerate(order) if one in free]  # sorted: a heap
        places = {one: place for _, place, one in nearest}
        while nearest and held < shares[part] * len(pairs.same):
            _, _, one = heapq.heappop(nearest)
            if one not in free:
                continue  # taken when it had more links
            free.remove(one)
            parts[one] = part
            held += float(size[one])
            for other in others[one]:
                if other in free:
                    links[other] += 1
                    heapq.heappush(nearest, (-links[other], places[other], other))
    dealt: np.ndarray = np.where(parts[left] == parts[right], parts[left], -1)
    return dealt


def one_identity(pairs: PairList) -> set[PurePosixPath]:
    """Returns the folders that may each be one identity.

    No two pictures of such a folder are a different pair, and all pairs between two of them are of one kind: originals
    in one folder and copies in another make both same and different pairs.
    """
    folders = [PurePosixPath(file).parent for file in pairs.files]
    kinds: dict[frozenset[PurePosixPath], set[bool]] = {}
    for left, right, same in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist(), strict=True):
        kinds.setdefault(frozenset((folders[left], folders[right])), set()).add(same)
    several = [between for between, found in kinds.items() if False in found and (True in found or len(between) == 1)]
    return set(folders) - set().union(*several) - pairs.of_several


def of_several(pairs: PairList) -> frozenset[PurePosixPath]:
    """Returns the folders that are not one identity, for a list that has fewer pairs."""
    return frozenset(PurePosixPath(file).parent for file in pairs.files) - one_identity(pairs)


def _linked(pairs: PairList, rows: np.ndarray) -> np.ndarray:
    """Returns a number for each picture, [files] int64, equal where pictures are linked.

    Args:
        pairs: the list.
        rows: [count] bool, the pairs that link; folders that are one identity do as well.
    """
    roots = pairs.originals.tolist()

    def root(picture: int) -> int:
        while roots[picture] != picture:
            roots[picture] = roots[roots[picture]]
            picture = roots[picture]
        return picture

    linking = one_identity(pairs)
    folders: dict[PurePosixPath, int] = {}
    for number, file in enumerate(pairs.files):
        if (folder := PurePosixPath(file).parent) in linking:
            roots[root(number)] = root(folders.setdefault(folder, number))
    for left, right in zip(pairs.left[rows].tolist(), pairs.right[rows].tolist(), strict=True):
        roots[root(left)] = root(right)
    return np.array([root(number) for number in range(len(roots))])


_Pair = tuple[str, str, bool, int | None]


def _table(lines: Sequence[str]) -> list[tuple[int, _Pair | str]]:
    delimiter = "\t" if "\t" in lines[0] else ","
    read: list[tuple[int, _Pair | str]] = []
    rows = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            cells = [cell.strip() for cell in next(rows)]
        except StopIteration:
            return read
        except csv.Error as error:
            read.append((rows.line_num, f"can't be read ({error})"))
            continue
        number = rows.line_num
        if not any(cells) or (number == 1 and [one.lower() for one in cells[2:3]] == ["same"]):
            continue
        match cells:
            case [left, right, ("0" | "1") as same]:
                read.append((number, (left, right, same == "1", None)))
            case [left, right, ("0" | "1") as same, fold] if _NUMBER.fullmatch(fold):
                read.append((number, (left, right, same == "1", int(fold))))
            case _:
                read.append((number, "must be LEFT,RIGHT,SAME or LEFT,RIGHT,SAME,FOLD with SAME 0 or 1, FOLD a number"))


def _lfw(lines: Sequence[str]) -> list[tuple[int, _Pair | str]]:
    head = [int(one) for one in lines[0].split()]
    if 0 in head:
        return [(1, f"the numbers of folds and of pairs (={lines[0].strip()}) must be at least 1")]
    folds, each = head[0] if len(head) > 1 else 1, head[-1]
    read: list[tuple[int, _Pair | str]] = []
    pairs = [(number, line.split("\t")) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    for place, (number, cells) in enumerate(pairs):
        fold = place // (2 * each) if len(head) > 1 else None
        match cells:
            case [name, first, second] if _numbers(first, second):
                read.append((number, (_lfw_file(name, first), _lfw_file(name, second), True, fold)))
            case [name, first, other, second] if _numbers(first, second):
                read.append((number, (_lfw_file(name, first), _lfw_file(other, second), False, fold)))
            case _:
                read.append((number, "must be NAME, NUMBER, NUMBER or NAME, NUMBER, NAME, NUMBER"))
    return read + _lfw_flaws(lines[0].strip(), folds, each, read)


def _lfw_flaws(
    head: str, folds: int, each: int, read: Sequence[tuple[int, _Pair | str]]
) -> list[tuple[int, _Pair | str]]:
    """Returns the first line whose kind contradicts the list's first line, or a wrong count.

    Folds are determined by counting: if a line is lost, those after it would be in other folds.
    """
    for place, (number, pair) in enumerate(read[: 2 * folds * each]):
        is_same = place // each % 2 == 0
        if not isinstance(pair, str) and pair[2] != is_same:
            kinds = ("a same", "a different") if is_same else ("a different", "a same")
            return [(number, f"must be {kinds[0]} pair according to the first line (={head}), not {kinds[1]} one")]
    if len(read) != 2 * folds * each:
        return [(1, f"announces {2 * folds * each} pairs (={head}); there are {len(read)}")]
    return []


def _numbers(*texts: str) -> bool:
    return all(_NUMBER.fullmatch(text.strip()) for text in texts)


def _lfw_file(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}.jpg"
