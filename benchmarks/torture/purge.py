"""Promise 18: after a purge no byte of what was deleted is in the data folder, also when the process is killed in it.

A child process writes and purges (`purging_writer`) and is killed at a random moment. What it was told is purged must
not be in the folder as the kill left it; what it had begun to purge must not be there once the next process has opened
the collection and has written its graph. A scan looks for ids, metadata and any two neighbouring components of vectors,
as they were given and as the metric has them, at every byte of every file.
"""

from __future__ import annotations

import os
import random
import re
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.torture import purging_writer as writer
from benchmarks.torture.children import child
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from twinsight_core.collections.collection import Collection
from twinsight_core.index.base import Metric, prepared
from twinsight_core.items import CollectionSpec
from twinsight_core.storage.store import FILE_NAME, Store

KILLS = 200
_KILLS_A_COLLECTION = 8  # as many as the numbers of runs have one digit
_MOST_LINES = 40
_INDEXED_S = 120.0
_NAME = re.compile(rb"p\d{7}-0(?!\d)")


@dataclass
class Purges:
    """What a number of kills showed.

    Attributes:
        flaws: what went against the promise.
        purged: items that were purged.
        in_purges: kills with a purge unanswered.
        scanned_mb: of files, in all scans.
    """

    count: int = 0
    flaws: list[str] = field(default_factory=list)
    purged: int = 0
    in_purges: int = 0
    scanned_mb: float = 0.0


def traces(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns, by item, a file of the folder that holds anything of it: its id, metadata, or two of its components."""
    doomed = sorted(names)
    by_mark = {int(mark): name for name in doomed for mark in _marks(name)}
    marks = np.array(sorted(by_mark), np.uint64)
    found: dict[str, str] = {}
    for file, content in contents(folder).items():
        found |= dict.fromkeys({one.decode() for one in _NAME.findall(content)} & set(doomed), file)
        for offset in range(8):
            end = offset + (len(content) - offset) // 8 * 8
            words = np.frombuffer(content[offset:end], "<u8")
            found |= {by_mark[int(word)]: file for word in words[np.isin(words, marks)]}
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Returns every file of a folder by its path in it, as they were at one time, by name.

    A collection that is open meanwhile writes and renames its graph's files: all are read again until none has come or
    gone since they were listed.
    """
    while True:
        files = _files(folder)
        try:
            read = {str(one.relative_to(folder)): one.read_bytes() for one in files}
        except FileNotFoundError:
            continue
        if _files(folder) == files:
            return read


def _files(folder: Path) -> list[Path]:
    return sorted(Path(path, name) for path, _, names in os.walk(folder) for name in names)


def _marks(name: str) -> Sequence[np.uint64]:
    marks: list[np.uint64] = []
    for version in range(writer.VERSIONS):
        vector = writer.vector_of(name, version)
        for form in (vector, prepared(vector[None], Metric.COSINE)[0]):
            whole = form.astype("<f4").tobytes()
            marks += [np.frombuffer(whole[at : at + 8], "<u8")[0] for at in range(0, len(whole) - 4, 4)]
    return marks


def kills(folder: Path, count: int, seed: int) -> Purges:
    """Kills the writers of one collection up to eight times."""
    rng = random.Random(seed)
    metric = rng.choice((Metric.EUCLIDEAN, Metric.COSINE))
    Store.create(folder / FILE_NAME, CollectionSpec("things", writer.DIMENSION, metric))
    purged: set[str] = set()
    shown = Purges()
    for run in range(1, min(count, _KILLS_A_COLLECTION) + 1):
        told = _killed_run(folder, run, rng)
        shown.count += 1
        begun, done = (_doomed(told, word) for word in ("begin", "done"))
        shown.in_purges += begun != done
        if flaw := _flaw(folder, begun, done, purged, shown):
            shown.flaws.append(f"seed {seed}, kill {run} after {len(told)} lines: {flaw}")
            break
    shown.purged = len(purged)
    return shown


def _killed_run(folder: Path, run: int, rng: random.Random) -> list[str]:
    with child(writer.write, str(folder), run) as process:
        return process.told_until_killed(rng.randint(1, _MOST_LINES), pause=rng.uniform(0.0, 4.0))


def _doomed(told: list[str], word: str) -> set[str]:
    return {writer.doomed_of(int(line.split()[1])) for line in told if line.startswith(word)}


def _flaw(folder: Path, begun: set[str], done: set[str], purged: set[str], shown: Purges) -> str:
    """Says what is wrong after a kill, and adds to `purged` what is purged now."""
    # What is acknowledged is erased already, whatever the process was doing when it was killed.
    if found := _scanned(folder, done | purged, shown):
        return f"as the kill left it, the folder holds {found}"
    with closing(Collection(folder, writer.OPTIONS)) as collection:
        # Of a purge that was cut short the deletion was done or not; where it was, the rest is done at the start.
        there = {name for name in begun if collection.get([name]) != [None]}
        purged |= begun - there
        gone = collection.get([name.removesuffix("-0") + "-1" for name in sorted(begun)]).count(None)
        if there & done or gone:
            return f"{sorted(there & done)} are back, and {gone} of the others are gone"
        if found := _scanned(folder, purged, shown):
            return f"after the start that finishes the purge, the folder holds {found}"
        if not collection.wait_indexed(_INDEXED_S):
            return "the graph does not catch up"
    found = _scanned(folder, purged, shown)
    return f"with the graph written anew, the folder holds {found}" if found else ""


def _scanned(folder: Path, names: set[str], shown: Purges) -> str:
    shown.scanned_mb += sum(map(len, contents(folder).values())) / 1e6
    found = traces(folder, names)
    return ", ".join(f"{name} in {file}" for name, file in sorted(found.items())[:5])


def traces_without_purge(folder: Path) -> dict[str, str]:
    """Deletes an item without purging it, and returns what the scan finds: that it can find something."""
    Store.create(folder / FILE_NAME, CollectionSpec("things", writer.DIMENSION, Metric.EUCLIDEAN))
    doomed = writer.doomed_of(1_000_000)
    with closing(Collection(folder, writer.OPTIONS)) as collection:
        collection.upsert([writer.item(doomed, 0)])
        collection.delete([doomed])
    return traces(folder, [doomed])


def run(scale: Scale) -> Outcome:
    """Kills writers that purge, of a new collection every eight times."""
    count, rng = scale.of(KILLS), random.Random(scale.seed)
    shown: list[Purges] = []
    for first in range(0, count, _KILLS_A_COLLECTION):
        with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder:
            shown.append(kills(Path(folder), count - first, rng.randrange(1 << 20)))
    failures = [flaw for one in shown for flaw in one.flaws]
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder:
        if not traces_without_purge(Path(folder)):
            failures.append("control: the scan does not find what was deleted and not purged")
    figures: dict[str, Figure] = {
        "purged": sum(one.purged for one in shown),
        "kills in a purge": sum(one.in_purges for one in shown),
        "scanned MB": round(sum(one.scanned_mb for one in shown)),
    }
    return Outcome(sum(one.count for one in shown), failures, figures)


PROMISE = Promise(
    18, "purge", "no byte of an id, of metadata or of two components in the folder, in 200 kills", 8.0, run
)
