"""What can still be read of a damaged collection, as a backup to restore.

Rows are read by ranges of their sequence numbers, through SQLite's own tree. A range that can't be read is halved until
the rows that fail stand alone; of those that can be read, the checksum decides. Pages are never read past the tree,
where rows that were deleted long ago would come back. What hangs on a damaged inner page of the tree is therefore lost,
hundreds of pages at once, and without the head, which says what the vectors are, nothing can be salvaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from twinsight_core.backups import BackupEntry, entry_of, made_whole, write_manifest
from twinsight_core.data_folder import COLLECTIONS
from twinsight_core.errors import NotFound
from twinsight_core.sqlite import DAMAGE, damaged, translated
from twinsight_core.store import FILE_NAME, Changes, Store, StoredItem, checked_item, read_head

_SELECT_RANGE = "SELECT seq, id, vector, metadata, crc FROM items WHERE seq >= ? AND seq < ? ORDER BY seq"
_STEP = 1024


@dataclass(frozen=True)
class Salvaged:
    """What became of a damaged collection.

    Attributes:
        entry: what was saved.
        item_count: how many items there were.
        mismatched: rows that could be read, and were not what was written.
        forgotten: bulk writes whose record was dropped, so that resuming one writes again what may be lost of it.
    """

    entry: BackupEntry
    item_count: int
    mismatched: int
    forgotten: int


def salvage(data_dir: Path, collection_id: str, out: Path) -> Salvaged:
    """Writes what can still be read of a collection to a backup of its own, whether or not a server runs.

    Args:
        data_dir: the data folder; nothing is changed in it.
        collection_id: the collection.
        out: folder of the backup to make.

    Raises:
        NotFound: there is no such collection.
        AlreadyExists: `out` is there.
        DataLoss: not even the collection's head can be read, or it is of a later version.
        StorageFull: the disk has no room.
        OSError: `out` can't be written.
    """
    folder = data_dir / COLLECTIONS / collection_id
    if not folder.is_dir():
        raise NotFound(f"`{data_dir}` has no collection `{collection_id}`.", reason="COLLECTION_NOT_FOUND")
    file = folder / FILE_NAME
    with made_whole(out) as unfinished, translated(file):
        # Not `connect`, whose first statement would fail. The first one here lets SQLite read a file that is shorter
        # than it says; nothing can be written in any case.
        source = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            source.execute("PRAGMA writable_schema = ON")
            source.execute("BEGIN")  # all that is read is of one moment
            spec, next_seq, item_count = read_head(source, file)
            if spec.id != collection_id:
                raise damaged(file, f"it is the file of collection `{spec.id}`")
            rows = _Rows(source, spec.dimension)
            target = unfinished / spec.id / FILE_NAME
            target.parent.mkdir()
            Store.create(target, spec)
            store = Store(target)
            try:
                kept = _write(store, rows.up_to(next_seq), next_seq)
                ingests = _ingests(source)
                if kept == item_count and not rows.mismatched:
                    store.commit(Changes([], [], ingests, next_seq, kept))
                    ingests = {}
            finally:
                store.close()
        finally:
            source.close()
        entry = entry_of(target)
        write_manifest(unfinished, [entry])
    return Salvaged(entry, item_count, rows.mismatched, len(ingests))


class _Rows:
    """The rows that can be read of a damaged table; counts those that are not what was written."""

    def __init__(self, source: apsw.Connection, dimension: int) -> None:
        self._source = source
        self._dimension = dimension
        self.mismatched = 0

    def up_to(self, end: int) -> Iterator[list[StoredItem]]:
        """Yields the sound rows of numbers below `end`, rising, many at a time."""
        for first in range(1, end, _STEP):
            ranges = [(first, min(first + _STEP, end))]
            while ranges:
                low, high = ranges.pop()
                try:
                    rows = self._source.execute(_SELECT_RANGE, (low, high)).fetchall()
                except (*DAMAGE, apsw.IOError):
                    if high - low > 1:
                        middle = (low + high) // 2
                        ranges += [(middle, high), (low, middle)]
                    continue
                items = [checked_item(row, self._dimension) for row in rows]
                self.mismatched += items.count(None)
                yield [item for item in items if item is not None]


def _write(store: Store, batches: Iterator[list[StoredItem]], next_seq: int) -> int:
    """Writes rows to an empty store, and returns how many there are then."""
    seqs: dict[str, int] = {}
    for items in batches:
        # Of two rows with one id, which only a damaged table has, the later was written last.
        newest = {item.id: item for item in items}
        removed = [seqs[name] for name in newest if name in seqs]
        seqs.update((item.id, item.seq) for item in newest.values())
        store.commit(Changes(removed, list(newest.values()), {}, next_seq, len(seqs)))
    return len(seqs)


def _ingests(source: apsw.Connection) -> dict[str, int]:
    """Returns the record of bulk writes, or what can be read of it."""
    found: dict[str, int] = {}
    try:
        for row in source.execute("SELECT id, batch FROM ingests"):
            match row:
                case (str(name), int(batch)):
                    found[name] = batch
    except (*DAMAGE, apsw.IOError):
        pass  # a bulk write that is not on record starts over
    return found
