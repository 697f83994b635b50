"""Promise 4: a graph's file may be damaged in any way: no crash, no wrong answer, and the graph comes back.

Each case damages the files of a closed collection, opens it in a child process, compares its answers with the truth,
waits for the graph, and opens once more to see that what was written then is sound. The control loads damaged files
without looking at their digests, and must be seen to crash or to answer wrongly.
"""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.torture.children import child
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.items import CollectionSpec, CollectionState, NewItem, SearchOptions
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage import snapshots
from twinsight_core.storage.store import FILE_NAME, Store

CASES, CONTROL_CASES = 500, 60
# So many that walks of the graph, 16 wide, are taken for faster than comparing with all.
COUNT, DIMENSION = 700, 8
_OPTIONS = CollectionOptions(
    graph=GraphParameters(links=6, build_width=40), policy=IndexPolicy(graph_from=100, patience=20), ef=16
)
_PAGE = 4096
_CASE_S = 60.0

Damage = Callable[[list[Path], random.Random], None]
"""Damages some of the files of a collection; they are sorted, the newest last."""


def _changed(change: Callable[[bytearray, random.Random], None]) -> Damage:
    """Returns the damage that changes the newest file, and half the time the others too."""

    def damage(files: list[Path], rng: random.Random) -> None:
        for file in files if rng.random() < 0.5 else files[-1:]:
            content = bytearray(file.read_bytes())
            change(content, rng)
            file.write_bytes(content)

    return damage


def _bit_flips(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 8))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _header(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(96)] ^= 1 << rng.randrange(8)


def _garbage(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content))
    content[at : at + _PAGE] = rng.randbytes(len(content[at : at + _PAGE]))


def _zeros(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content))
    content[at : at + _PAGE] = bytes(len(content[at : at + _PAGE]))


def _truncation(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def _appended(content: bytearray, rng: random.Random) -> None:
    content += rng.choice((b"\0", rng.randbytes(_PAGE), bytes(content)))


def _moved_pages(content: bytearray, rng: random.Random) -> None:
    first, second = (rng.randrange(len(content) // _PAGE) * _PAGE for _ in range(2))
    content[first : first + _PAGE], content[second : second + _PAGE] = (
        content[second : second + _PAGE],
        content[first : first + _PAGE],
    )


def _swapped(files: list[Path], rng: random.Random) -> None:
    del rng
    first, last = files[0].read_bytes(), files[-1].read_bytes()
    files[0].write_bytes(last)
    files[-1].write_bytes(first)


def _of_another(files: list[Path], rng: random.Random) -> None:
    """Puts the graph of another collection, of other vectors, in the place."""
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder:
        other = made(Path(folder), seed=1 + rng.randrange(3))
        shutil.copyfile(_graphs(other)[-1], files[-1])


def _missing(files: list[Path], rng: random.Random) -> None:
    for file in files if rng.random() < 0.5 else files[-1:]:
        file.unlink()


def _folder(files: list[Path], rng: random.Random) -> None:
    del rng
    files[-1].unlink()
    files[-1].mkdir()


DAMAGES: dict[str, Damage] = {
    "bit flips": _changed(_bit_flips),
    "header": _changed(_header),
    "garbage": _changed(_garbage),
    "zeros": _changed(_zeros),
    "truncation": _changed(_truncation),
    "appended": _changed(_appended),
    "moved pages": _changed(_moved_pages),
    "swapped": _swapped,
    "of another": _of_another,
    "missing": _missing,
    "a folder": _folder,
}


# A graph of other vectors misleads for sure; single bits often change nothing that a search meets.
_CONTROL = ("of another", "header", "truncation", "garbage")


def vectors(seed: int) -> np.ndarray:
    """Returns the vectors of a collection, `[count, dimension] float32`; the first half are deleted ones."""
    return np.random.default_rng(seed).normal(size=(2 * COUNT, DIMENSION)).astype(np.float32)


def made(root: Path, *, seed: int = 0) -> Path:
    """Makes a closed collection with two snapshots, half of its items deleted between them; returns its folder."""
    folder = root / "things"
    folder.mkdir()
    Store.create(folder / FILE_NAME, CollectionSpec("things", DIMENSION, Metric.EUCLIDEAN))
    all_vectors = vectors(seed)
    for names in (range(COUNT), range(COUNT, 2 * COUNT)):
        collection = Collection(folder, _OPTIONS)
        collection.upsert([NewItem(f"i{name}", all_vectors[name]) for name in names])
        collection.wait_indexed(60)
        if names.start:
            collection.delete([f"i{name}" for name in range(COUNT)])
            collection.wait_indexed(60)
        collection.close()
    return folder


def _graphs(folder: Path) -> list[Path]:
    return sorted(folder.glob("graph-*"))


def flaw(folder: Path) -> str:
    """Opens a damaged collection, and returns what is wrong with it; empty: nothing is."""
    for state in ("damaged", "mended"):
        try:
            collection = Collection(folder, _OPTIONS)
        except Exception as error:  # noqa: BLE001 - whatever it is, it keeps the collection shut
            return f"{state}, it does not open: {type(error).__name__}: {error}"
        try:
            if what := _wrong_answers(collection):
                return f"{state}: {what}"
            if not collection.wait_indexed(_CASE_S):
                return f"{state}: the graph does not come back"
            status = collection.status()
            if (status.state, status.item_count, status.indexed_count) != (CollectionState.READY, COUNT, COUNT):
                return f"{state}: {status}"
            if what := _wrong_answers(collection):
                return f"{state}, with its graph: {what}"
        finally:
            collection.close()
    return ""


def _wrong_answers(collection: Collection) -> str:
    all_vectors = vectors(0)
    names = range(COUNT, 2 * COUNT)
    found = collection.search(all_vectors[names.start :], SearchOptions(3))
    truth = collection.search(all_vectors[names.start :], SearchOptions(3, exact=True))
    for name, matches, right in zip(names, found, truth, strict=True):
        if not matches or matches[0].id != f"i{name}" or right[0].id != f"i{name}":
            return f"i{name} does not find itself"
        if len(matches) != 3 or any(int(match.id[1:]) < COUNT for match in matches):
            return f"i{name} finds {[match.id for match in matches]}"
    return ""


def work(lines: Connection, sound: str, cases: list[int], seed: int, trusting: bool) -> None:
    """Tries cases in this process and tells of each `begin N`, then `done N FLAW`."""
    logging.getLogger("twinsight.collection").setLevel(logging.CRITICAL)
    with _trusting() if trusting else tempfile.TemporaryDirectory():
        for case in cases:
            lines.send_bytes(f"begin {case}".encode())
            with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as root:
                folder = Path(shutil.copytree(sound, Path(root) / "things"))
                damage(folder, case, seed, _kinds(trusting=trusting))
                lines.send_bytes(f"done {case} {flaw(folder)}".encode())


@contextmanager
def _trusting() -> Iterator[None]:
    """Takes every file of a graph for sound."""
    with mock.patch.object(snapshots, "_flaw", return_value=None):
        yield


def _kinds(*, trusting: bool) -> Sequence[str]:
    return _CONTROL if trusting else list(DAMAGES)


def damage(folder: Path, case: int, seed: int, kinds: Sequence[str]) -> None:
    """Damages a collection's files as a case says."""
    DAMAGES[kinds[case % len(kinds)]](_graphs(folder), random.Random(seed * 1_000_003 + case))


def cases(count: int, seed: int, *, trusting: bool = False) -> Iterator[tuple[str, str]]:
    """Tries `count` cases in child processes; yields of each the kind of damage, and what broke.

    It ends early where children do not start.

    Args:
        count: how many.
        seed: chooses the damages.
        trusting: for the control: damaged files are loaded.
    """
    left = list(range(count))
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as root:
        sound = made(Path(root))
        begun = True
        while left and begun:  # a child that begins nothing can't be started
            begun = False
            with child(work, str(sound), left, seed, trusting) as one:
                while left and one.line(_CASE_S) is not None:
                    begun = True
                    answer = one.line(2 * _CASE_S)
                    what = answer.split(maxsplit=2)[2:] if answer is not None else ["the process ended or hung"]
                    kinds = _kinds(trusting=trusting)
                    yield kinds[left.pop(0) % len(kinds)], "".join(what)
                    if answer is None:
                        break


def run(scale: Scale) -> Outcome:
    """Damages snapshots; then has damaged ones loaded, which must break something."""
    count, control = scale.of(CASES, at_least=len(DAMAGES)), scale.of(CONTROL_CASES, at_least=20)
    failures: list[str] = []
    kinds: Counter[str] = Counter()
    for case, (kind, what) in enumerate(cases(count, scale.seed)):
        kinds[kind] += 1
        if what:
            failures.append(f"case {case} ({kind}): {what}")
    if kinds.total() < count:
        failures.append(f"only {kinds.total()} of {count} cases were tried: children do not start")
    broken = [what for _, what in cases(control, scale.seed, trusting=True) if what]
    if not broken:
        failures.append(f"the control broke nothing in {control} cases: the damages show nothing")
    figures: dict[str, Figure] = dict(kinds)
    figures[f"control broken, of {control}"] = len(broken)
    figures["of which crashes"] = sum("ended or hung" in what for what in broken)
    return Outcome(kinds.total(), failures, figures)


PROMISE = Promise(4, "snapshot-damage", "0 crashes, 0 wrong answers, rebuilt, in 500 cases", 10.0, run)
