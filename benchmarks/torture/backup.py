"""Promise 9: a backup made beside a server that ingests holds an acknowledged prefix, and serves elsewhere.

Streams write numbered batches to a server, again and again the same items under new contents, while its data folder is
backed up. Each backup is restored to another folder, where every row and the file's digest are checked on the way, and
opened there: of each stream exactly the batches up to some number are there, as they were written and none by half,
that number is on record, and no batch that was answered before the backup began is missing. A bit of the backup is
then turned: it must not be restored.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.serving import server
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from twinsight_client import Client, NewItem
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import DataLoss
from twinsight_core.items import Item
from twinsight_core.storage.backups import back_up
from twinsight_core.storage.restoring import restore
from twinsight_core.storage.store import FILE_NAME

BACKUPS = 100
STREAMS, BATCH, DIMENSION = 2, 10, 32
COLLECTION = "log"
FLAGS = ("--models", "base", "--batch-size", "1")
_BACKUPS_A_SERVER = 25
_SLOTS = 40
"""Batches after which a stream writes the same items again."""
_MOST_BATCHES = 1_000_000
_FIRST_S = 60.0


@dataclass
class Streams:
    """What has been told of the streams that ingest.

    Attributes:
        acknowledged: of each stream, the last batch that was answered.
        moved: set whenever one is.
    """

    acknowledged: list[int] = field(default_factory=lambda: [0] * STREAMS)
    moved: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    def note(self, stream: int, batch: int) -> None:
        """Takes in an answer."""
        with self.moved:
            self.acknowledged[stream] = batch
            self.moved.notify_all()

    def wait(self, more: int) -> list[int]:
        """Waits for each stream's next answers, `more` of them, and returns the last batches."""
        with self.moved:
            until = [one + more for one in self.acknowledged]
            if not self.moved.wait_for(lambda: all(map(int.__ge__, self.acknowledged, until)), _FIRST_S):
                raise RuntimeError(f"the streams stand still at {self.acknowledged}")
            return list(self.acknowledged)


def backups(address: str, data_dir: Path, folder: Path, count: int, seed: int) -> tuple[list[str], dict[str, int]]:
    """Backs a server up while streams ingest.

    Args:
        address: HOST:PORT of the server.
        data_dir: its data folder.
        folder: an empty one, for backups and what is restored of them.
        count: how many backups.
        seed: chooses the moments, and which bits are turned.

    Returns:
        What went against the promise, and counts by name.
    """
    rng = random.Random(seed)
    flaws: list[str] = []
    counts = {"batches": 0, "batches beside": 0, "damaged and refused": 0}
    with Client(address) as client:
        client.create_collection(COLLECTION, dimension=DIMENSION)
    streams = Streams()
    with ThreadPoolExecutor(STREAMS) as pool:
        ingests: list[Future[None]] = [pool.submit(_ingest, address, one, streams) for one in range(STREAMS)]
        try:
            for number in range(count):
                before = streams.wait(rng.randint(1, 3))
                backup, other = folder / f"backup{number}", folder / f"other{number}"
                back_up(data_dir, backup, only=[COLLECTION])
                after = list(streams.acknowledged)
                restore(backup, other)
                with closing(Catalog(other)) as catalog:
                    flaw, found = _compared(catalog.get(COLLECTION), before)
                if flaw:
                    flaws.append(f"seed {seed}, backup {number}: {flaw}")
                counts["batches"] += sum(found)
                counts["batches beside"] += sum(after) - sum(before)
                if _is_restored_with_a_bit_turned(backup, folder / f"damaged{number}", rng):
                    flaws.append(f"seed {seed}, backup {number}: it was restored with a bit turned")
                counts["damaged and refused"] += 1
        finally:
            streams.ended = True
        for one in ingests:
            one.result()
    return flaws, counts


def _ingest(address: str, stream: int, streams: Streams) -> None:
    def items() -> Iterator[NewItem]:
        for batch in range(1, _MOST_BATCHES):
            if streams.ended:
                return
            for n in range(BATCH):
                yield NewItem(_name(stream, batch, n), _vector(stream, batch, n), {"batch": batch, "stream": stream})

    with Client(address) as client:
        answers = client.ingest(COLLECTION, items(), ingest_id=f"stream-{stream}", batch_size=BATCH)
        for batch, answer in enumerate(answers, 1):
            answer.values()
            streams.note(stream, batch)


def _name(stream: int, batch: int, n: int) -> str:
    return f"s{stream}-{batch % _SLOTS}-{n}"


def _vector(stream: int, batch: int, n: int) -> np.ndarray:
    return np.random.default_rng([stream, batch, n]).normal(size=DIMENSION).astype(np.float32)


def _compared(collection: Collection, least: list[int]) -> tuple[str, list[int]]:
    """Says what is wrong with what was restored, and returns the last batch of each stream."""
    # The client's number of a batch is how many items it and those before it hold.
    written = [collection.last_batch(f"stream-{stream}") for stream in range(STREAMS)]
    last = [count // BATCH for count in written]
    if any(count % BATCH for count in written):
        return f"{written} items are there, which are not whole batches", last
    if any(map(int.__lt__, last, least)):
        return f"batches up to {last} are there, and up to {least} were acknowledged before", last
    items: dict[str, Item] = {}
    after: str | None = ""
    while after is not None:
        page, after = collection.page(after=after, limit=1000, include_vectors=True)
        items |= {item.id: item for item in page}
    expected = {
        _name(stream, batch, n): (stream, batch, n)
        for stream in range(STREAMS)
        for batch in range(max(1, last[stream] - _SLOTS + 1), last[stream] + 1)
        for n in range(BATCH)
    }
    if items.keys() != expected.keys():
        return f"{len(items)} items are there, and the batches up to {last} are of {len(expected)}", last
    for name, (stream, batch, n) in expected.items():
        item = items[name]
        whole = item.vector is not None and np.array_equal(item.vector, _vector(stream, batch, n))
        if not whole or item.metadata != {"batch": batch, "stream": stream}:
            return f"{name} is not as batch {batch} wrote it", last
    return "", last


def _is_restored_with_a_bit_turned(backup: Path, other: Path, rng: random.Random) -> bool:
    file = backup / COLLECTION / FILE_NAME
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    try:
        restore(backup, other)
    except DataLoss:
        return False
    return True


def run(scale: Scale) -> Outcome:
    """Backs servers up while streams ingest, a new one every 25 times."""
    count, rng = scale.of(BACKUPS), random.Random(scale.seed)
    flaws: list[str] = []
    figures: dict[str, Figure] = {}
    for first in range(0, count, _BACKUPS_A_SERVER):
        with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as name:
            folder = Path(name)
            with server(folder / "data", *FLAGS) as served:
                some, counts = backups(
                    served.address,
                    folder / "data",
                    folder,
                    min(_BACKUPS_A_SERVER, count - first),
                    rng.randrange(1 << 20),
                )
        flaws += some
        figures |= {name: int(figures.get(name, 0)) + value for name, value in counts.items()}
    return Outcome(count, flaws, figures)


PROMISE = Promise(
    9, "backup", "100 backups beside ingesting streams: each an acknowledged prefix, none restored damaged", 3.0, run
)
