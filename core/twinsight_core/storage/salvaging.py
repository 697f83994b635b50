"""Salvages what can still be read of a damaged collection, as a backup to restore.

Rows are read in the order of their sequence numbers, through SQLite's own tree. If that fails, or ends before the last
row, the remaining range is halved until the failing rows are isolated: by the numbers that the index of ids has, so
that it does not matter how far apart they lie, or by all numbers if that index is damaged, too. A row that can be read
is kept if its checksum matches. Pages are never read around the tree, where rows that were deleted long ago would
reappear. Everything below a damaged inner page of the tree is therefore lost, hundreds of pages at once. Without the
head, which describes the vectors, nothing can be salvaged. A readable head that does not match its checksum is used,
since there is no other, and reported.

Rows are copied as stored, so that an encrypted collection needs no key.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import apsw

from twinsight_core.errors import DataLoss, NotFound
from twinsight_core.items import CollectionSpec
from twinsight_core.storage.backups import BackupEntry, entry_of, made_whole, write_manifest
from twinsight_core.storage.data_folder import COLLECTIONS
from twinsight_core.storage.layout import (
    INSERT_INGEST,
    INSERT_ITEM,
    Head,
    check_state,
    is_sound,
    is_time,
    lay_out,
    prepare,
    read_head,
    state_sum,
    write_state_sum,
)
from twinsight_core.storage.sqlite import DAMAGE, connect, damaged, distrust, transaction, translated
from twinsight_core.storage.store import FILE_NAME

_STEP = 1024
_SELECT_RANGE = "SELECT * FROM items WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT ?"
_SELECT_LAST_OF_RANGE = "SELECT seq FROM items WHERE seq >= ? AND seq < ? ORDER BY seq DESC LIMIT 1"
# From the table's last row, which may be damaged, and from the index of ids, which has the numbers too.
_SELECT_LAST = (
    "SELECT max(seq) FROM items",
    "SELECT max(seq) FROM items INDEXED BY sqlite_autoindex_items_1",
)
_SELECT_NUMBERS = "SELECT seq FROM items INDEXED BY sqlite_autoindex_items_1 ORDER BY id"  # of the index alone

Row = tuple[int | float | bytes | str | None, ...]


@dataclass(frozen=True)
class Salvaged:
    """The outcome for a damaged collection.

    Attributes:
        entry: what was saved.
        item_count: how many items there were.
        mismatched: rows that could be read but are not what was written.
        forgotten: bulk writes whose record was dropped, so that resuming one rewrites what may be lost of it.
        state_sound: whether the head, which describes the collection, and the record of bulk writes match their
            checksum, if there is one.
    """

    entry: BackupEntry
    item_count: int
    mismatched: int
    forgotten: int
    state_sound: bool


def salvage(data_dir: Path, collection_id: str, out: Path) -> Salvaged:
    """Writes what can still be read of a collection to its own backup, whether or not a server runs.

    Args:
        data_dir: the data folder; not changed.
        collection_id: the collection.
        out: folder of the backup to create, not among the collections.

    Raises:
        InvalidInput: `out` is among the collections.
        NotFound: there is no such collection.
        AlreadyExists: `out` exists.
        DataLoss: not even the collection's head can be read, or it is of a later version.
        StorageFull: the disk has no room.
        OSError: `out` can't be written.
    """
    folder = data_dir / COLLECTIONS / collection_id
    if not folder.is_dir():
        raise NotFound(f"`{data_dir}` has no collection `{collection_id}`.", reason="COLLECTION_NOT_FOUND")
    file = folder / FILE_NAME
    with made_whole(out, data_dir) as unfinished, translated(file):
        # Not `connect`: its first statement would fail, and it is too defensive for the first one here, which lets
        # SQLite read a file that is shorter than its header says. Nothing can be written in any case.
        source = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            distrust(source)
            source.execute("PRAGMA writable_schema = ON")
            source.execute("BEGIN")  # so that everything read is of one moment
            head = read_head(source, file)
            if head.spec.id != collection_id:
                raise damaged(file, f"it is the file of collection `{head.spec.id}`")
            state_sound = _is_state_sound(source, file)
            rows = _Rows(source, head)
            target = unfinished / collection_id / FILE_NAME
            target.parent.mkdir()
            with _Target(target, head if state_sound else head._replace(next_seq=1)) as copy:
                for sound in rows.all():
                    copy.write(sound)
                ingests = _ingests(source)
                kept = len(copy.seqs)
                if state_sound and kept == head.item_count and not rows.mismatched:
                    copy.write_ingests(ingests)
                    ingests = []
        finally:
            source.close()
        entry = entry_of(target)
        write_manifest(unfinished, [entry])
    return Salvaged(entry, head.item_count, rows.mismatched, len(ingests), state_sound)


class _Rows:
    """The readable rows of a damaged table; counts those that are not what was written."""

    def __init__(self, source: apsw.Connection, head: Head) -> None:
        self._source = source
        self._head = head
        self.mismatched = 0

    def all(self) -> Iterator[list[tuple[int, str, Row]]]:
        """Yields the sound rows in the order of their numbers, many at a time."""
        ranges = [(1, self._end())]
        while ranges:
            low, high = ranges.pop()
            rows, whole = self._read(low, high)
            if not whole:
                # Continue after the last sound row: a damaged row's number may lead past others, or back.
                while rows and self._checked(rows[-1]) is None:
                    rows.pop()
            sound = [found for row in rows if (found := self._checked(row)) is not None]
            if not whole and (not sound or sound[-1][0] < low):
                if (middle := self._middle(low, high)) is not None:
                    ranges += [(middle, high), (low, middle)]
                continue
            self.mismatched += len(rows) - len(sound)
            yield sound
            if not whole:
                ranges.append((sound[-1][0] + 1, high))

    def _read(self, low: int, high: int) -> tuple[list[Row], bool]:
        """Returns the first rows numbered `low` up to below `high`, and whether these are all."""
        rows: list[Row] = []
        try:
            rows.extend(self._source.execute(_SELECT_RANGE, (low, high, _STEP)))
            if len(rows) == _STEP:
                return rows, False
            # A damaged number that is too high ends the scan without an error; the last row tells.
            last = self._source.execute(_SELECT_LAST_OF_RANGE, (low, high)).fetchone()
        except (*DAMAGE, apsw.IOError):
            return rows, False
        return rows, (rows[-1][0] if rows else None) == (last[0] if last else None)

    def _middle(self, low: int, high: int) -> int | None:
        """Returns the number, above `low`, at which to halve a range; None if no row can be found by halving it."""
        if self._numbers is not None:
            first, end = bisect_left(self._numbers, low), bisect_left(self._numbers, high)
            middle = self._numbers[(first + end) // 2] if first < end else low
            if middle > low:
                return middle
        # A few numbers are tried even though the index has none of them: it may be damaged where nothing shows it.
        return (low + high) // 2 if high - low > 1 and (self._numbers is None or high - low <= _STEP) else None

    @cached_property
    def _numbers(self) -> Sequence[int] | None:
        """The rows' numbers in rising order, from the index of ids; None if that is not whole, either."""
        found = array("q")
        try:
            found.extend(number for (number,) in self._source.execute(_SELECT_NUMBERS) if isinstance(number, int))
        except (*DAMAGE, apsw.IOError):
            return None
        numbers = array("q", sorted(set(found)))
        return numbers if len(numbers) == self._head.item_count else None

    def _end(self) -> int:
        """Returns one more than the last row's number; the head's own may be wrong, and far too large to count to."""
        last: list[int] = []
        for query in _SELECT_LAST:
            try:
                last += [row[0] or 0 for row in self._source.execute(query) if isinstance(row[0], int | None)]
            except (*DAMAGE, apsw.IOError):
                continue
        return max(last) + 1 if last else self._head.next_seq

    def _checked(self, row: Row) -> tuple[int, str, Row] | None:
        match row:
            case (int(seq), str(name), *_) if is_sound(row, self._head):
                return seq, name, row
            case _:
                return None


def _with_time(spec: CollectionSpec) -> CollectionSpec:
    return spec if is_time(spec.created_at) else replace(spec, created_at=0.0)


class _Target:
    """A collection's file being written, with rows as stored.

    Attributes:
        seqs: sequence numbers of its rows, by the rows' keys.
    """

    def __init__(self, file: Path, head: Head) -> None:
        self._head = head
        self._next_seq = head.next_seq
        self.seqs: dict[str, int] = {}
        self._connection = connect(file, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, None)
        prepare(self._connection)
        with transaction(self._connection):
            lay_out(self._connection, _with_time(head.spec), head.seal)

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def write(self, rows: Iterable[tuple[int, str, Row]]) -> None:
        """Adds rows of rising numbers."""
        with transaction(self._connection):
            for seq, name, row in rows:
                # If two rows have one id, which happens only in a damaged table, the later was written last.
                if name in self.seqs:
                    self._connection.execute("DELETE FROM items WHERE seq = ?", (self.seqs[name],))
                self.seqs[name] = seq
                self._connection.execute(INSERT_ITEM[self._head.version], row)
                self._next_seq = max(self._next_seq, seq + 1)
            self._connection.execute(
                "UPDATE collection SET next_seq = ?, item_count = ?", (self._next_seq, len(self.seqs))
            )
            write_state_sum(self._connection, state_sum(self._connection))

    def write_ingests(self, rows: Iterable[Row]) -> None:
        """Adds the record of bulk writes."""
        with transaction(self._connection):
            self._connection.executemany(INSERT_INGEST[self._head.version], rows)
            write_state_sum(self._connection, state_sum(self._connection))


def _is_state_sound(source: apsw.Connection, file: Path) -> bool:
    try:
        check_state(source, file)
    except (*DAMAGE, apsw.IOError, DataLoss):
        return False
    return True


def _ingests(source: apsw.Connection) -> list[Row]:
    """Returns the record of bulk writes, as far as it can be read."""
    found: list[Row] = []
    try:
        found.extend(source.execute("SELECT * FROM ingests"))
    except (*DAMAGE, apsw.IOError):
        pass  # a bulk write that is not on record starts over
    return found
