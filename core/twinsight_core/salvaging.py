"""What can still be read of a damaged collection, as a backup to restore.

Rows are read by ranges of their sequence numbers, through SQLite's own tree. A range that can't be read is halved until
the rows that fail stand alone; of those that can be read, the checksum decides. Pages are never read past the tree,
where rows that were deleted long ago would come back. What hangs on a damaged inner page of the tree is therefore lost,
hundreds of pages at once, and without the head, which says what the vectors are, nothing can be salvaged.

Rows are copied as they lie, so that no key is needed for those of an encrypted collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from twinsight_core.backups import BackupEntry, entry_of, made_whole, write_manifest
from twinsight_core.data_folder import COLLECTIONS
from twinsight_core.errors import NotFound
from twinsight_core.layout import INSERT_INGEST, INSERT_ITEM, Head, is_sound, lay_out, prepare, read_head
from twinsight_core.sqlite import DAMAGE, connect, damaged, transaction, translated
from twinsight_core.store import FILE_NAME

_SELECT_RANGE = "SELECT * FROM items WHERE seq >= ? AND seq < ? ORDER BY seq"
_STEP = 1024

Row = tuple[int | float | bytes | str | None, ...]


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
            head = read_head(source, file)
            if head.spec.id != collection_id:
                raise damaged(file, f"it is the file of collection `{head.spec.id}`")
            rows = _Rows(source, head)
            target = unfinished / collection_id / FILE_NAME
            target.parent.mkdir()
            with _Target(target, head) as copy:
                for sound in rows.up_to(head.next_seq):
                    copy.write(sound)
                ingests = _ingests(source)
                kept = len(copy.seqs)
                if kept == head.item_count and not rows.mismatched:
                    copy.write_ingests(ingests)
                    ingests = []
        finally:
            source.close()
        entry = entry_of(target)
        write_manifest(unfinished, [entry])
    return Salvaged(entry, head.item_count, rows.mismatched, len(ingests))


class _Rows:
    """The rows that can be read of a damaged table; counts those that are not what was written."""

    def __init__(self, source: apsw.Connection, head: Head) -> None:
        self._source = source
        self._head = head
        self.mismatched = 0

    def up_to(self, end: int) -> Iterator[list[tuple[int, str, Row]]]:
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
                sound = [found for row in rows if (found := self._checked(row)) is not None]
                self.mismatched += len(rows) - len(sound)
                yield sound

    def _checked(self, row: Row) -> tuple[int, str, Row] | None:
        match row:
            case (int(seq), str(name), *_) if is_sound(row, self._head):
                return seq, name, row
            case _:
                return None


class _Target:
    """A collection's file that is being written, row by row as they lie.

    Attributes:
        seqs: of what is in it, sequence numbers by what a row is found by.
    """

    def __init__(self, file: Path, head: Head) -> None:
        self._head = head
        self.seqs: dict[str, int] = {}
        self._connection = connect(file, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, None)
        prepare(self._connection)
        with transaction(self._connection):
            lay_out(self._connection, head.spec, head.seal)

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def write(self, rows: Iterable[tuple[int, str, Row]]) -> None:
        """Adds rows of rising numbers."""
        with transaction(self._connection):
            for seq, name, row in rows:
                # Of two rows with one id, which only a damaged table has, the later was written last.
                if name in self.seqs:
                    self._connection.execute("DELETE FROM items WHERE seq = ?", (self.seqs[name],))
                self.seqs[name] = seq
                self._connection.execute(INSERT_ITEM[self._head.version], row)
            self._connection.execute(
                "UPDATE collection SET next_seq = ?, item_count = ?", (self._head.next_seq, len(self.seqs))
            )

    def write_ingests(self, rows: Iterable[Row]) -> None:
        """Adds the record of bulk writes."""
        with transaction(self._connection):
            self._connection.executemany(INSERT_INGEST[self._head.version], rows)


def _ingests(source: apsw.Connection) -> list[Row]:
    """Returns the record of bulk writes, or what can be read of it."""
    found: list[Row] = []
    try:
        found.extend(source.execute("SELECT * FROM ingests"))
    except (*DAMAGE, apsw.IOError):
        pass  # a bulk write that is not on record starts over
    return found
