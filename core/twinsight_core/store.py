"""The durable record of a collection: one SQLite file, written by one connection, read by others beside it.

What a transaction has committed is on disk (WAL, synchronous=FULL). Every row carries a checksum, and the number of
rows is kept apart from them, so that a damaged file is noticed. Nothing here ever deletes or repairs a damaged file.
"""

from __future__ import annotations

import json
import logging
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import apsw
import numpy as np

from twinsight_core.errors import DataLoss, Unavailable
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, answer_too_large
from twinsight_core.sqlite import Readers, connect, damaged, transaction, translated
from twinsight_core.whole_files import sync_file

SCHEMA_VERSION = 1
FILE_NAME = "store.db"

# 16 KiB pages: three rows of a 512-component vector fill one well, where an 8 KiB page would waste a quarter.
_SCHEMA = """
CREATE TABLE collection (
    schema_version INTEGER NOT NULL, id TEXT NOT NULL, dimension INTEGER NOT NULL, metric TEXT NOT NULL,
    model_name TEXT NOT NULL, model_digest TEXT NOT NULL, created_at REAL NOT NULL,
    next_seq INTEGER NOT NULL, item_count INTEGER NOT NULL
) STRICT;
CREATE TABLE items (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, vector BLOB NOT NULL, metadata BLOB NOT NULL, crc INTEGER NOT NULL
) STRICT;
CREATE TABLE ingests (id TEXT PRIMARY KEY, batch INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE snapshots (
    file TEXT PRIMARY KEY, size INTEGER NOT NULL, sha256 TEXT NOT NULL, last_seq INTEGER NOT NULL,
    library TEXT NOT NULL, links INTEGER NOT NULL, build_width INTEGER NOT NULL, outside BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""
_SELECT_ALL = "SELECT seq, id, vector, metadata, crc FROM items ORDER BY seq"
_SELECT_AFTER = "SELECT seq, id, vector, metadata, crc FROM items WHERE seq > ? ORDER BY seq LIMIT ?"
# One statement for all keys, so that it sees one moment.
_SELECT_BY_ID = "SELECT seq, id, vector, metadata, crc FROM items WHERE id IN (SELECT value FROM json_each(?))"
_SELECT_BY_SEQ = "SELECT seq, id, vector, metadata, crc FROM items WHERE seq IN (SELECT value FROM json_each(?))"
_INSERT = "INSERT INTO items (seq, id, vector, metadata, crc) VALUES (?, ?, ?, ?, ?)"
_log = logging.getLogger("twinsight.collection")


class StoredItem(NamedTuple):
    """A row of `items`; `vector` is little-endian float32, `metadata` is JSON."""

    seq: int
    id: str
    vector: bytes
    metadata: bytes


class SnapshotRecord(NamedTuple):
    """What is known of a graph's file.

    Attributes:
        file: its name in the collection's folder.
        size: its bytes.
        sha256: digest of the file and `outside` behind it, hexadecimal.
        last_seq: of the items up to this number the graph holds all that it will; later ones are not in it.
        library: the library and version that wrote it.
        links: `GraphParameters.links`.
        build_width: `GraphParameters.build_width`.
        outside: sequence numbers up to `last_seq` for which the graph must not be asked, little-endian int64.
    """

    file: str
    size: int
    sha256: str
    last_seq: int
    library: str
    links: int
    build_width: int
    outside: bytes


@dataclass(frozen=True)
class Changes:
    """What one transaction writes.

    Attributes:
        removed: sequence numbers of the items to remove, all of them present.
        added: items to add; none of their ids is present once `removed` is gone.
        ingests: last batch by ingest id.
        next_seq: the number after the highest ever given out.
        item_count: items in the collection afterwards.
        purge: leave the mark that what was deleted is to be erased too; `Store.erase` takes it off.
    """

    removed: Sequence[int]
    added: Sequence[StoredItem]
    ingests: Mapping[str, int]
    next_seq: int
    item_count: int
    purge: bool = False


class Store:
    """An open store. Every method may be called from any thread.

    Attributes:
        purging: whether something that was deleted is still to be erased.
    """

    def __init__(self, file: Path, *, vfs: str | None = None) -> None:
        """Opens a store.

        Args:
            file: the database; must exist.
            vfs: name of the SQLite file system to use; None: the platform's.

        Raises:
            DataLoss: it is missing, damaged, or of a later version.
            StorageFull: there is no room to open it.
        """
        self._file = file
        self._readers = Readers(file, vfs)
        self._writing = threading.Lock()
        with self._translated():
            self._writer = connect(file, apsw.SQLITE_OPEN_READWRITE, vfs)
            try:
                self._read_head()
                # A copy of a store (`backups`) has another journal until it is opened.
                self._writer.execute("PRAGMA journal_mode = WAL")
            except BaseException:
                self._writer.close(True)
                raise

    @staticmethod
    def create(file: Path, spec: CollectionSpec, *, vfs: str | None = None) -> None:
        """Makes an empty store in a file that does not exist.

        Raises:
            StorageFull: there is no room.
        """
        with translated(file):
            connection = connect(file, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, vfs)
            try:
                connection.execute("PRAGMA page_size = 16384")
                connection.execute("PRAGMA journal_mode = WAL")
                with transaction(connection):
                    connection.execute(_SCHEMA)
                    connection.execute(
                        "INSERT INTO collection VALUES (?, ?, ?, ?, ?, ?, ?, 1, 0)",
                        (
                            SCHEMA_VERSION,
                            spec.id,
                            spec.dimension,
                            spec.metric.value,
                            spec.model_name,
                            spec.model_digest,
                            spec.created_at,
                        ),
                    )
            finally:
                connection.close()

    def _read_head(self) -> None:
        self.spec, self.next_seq, self.item_count = read_head(self._writer, self._file)
        # SQLite keeps this number for the application. It is no column, so that the format is what it was.
        self.purging = self._writer.execute("PRAGMA user_version").fetchall() != [(0,)]
        self.ingests: dict[str, int] = {}
        for row in self._writer.execute("SELECT id, batch FROM ingests"):
            match row:
                case (str(ingest), int(batch)):
                    self.ingests[ingest] = batch
                case _:
                    raise self.damaged("the record of its bulk writes can't be read")

    def scan(self) -> Iterator[list[StoredItem]]:
        """Yields all items in the order of writing, some hundred at a time, each checked.

        Raises:
            DataLoss: a row, or the number of rows, is not what was written.
        """
        count, last = 0, 0
        with self._reader() as reader:
            cursor = reader.execute(_SELECT_ALL)
            while items := [self._checked(row) for row in islice(cursor, 1024)]:
                count, last = count + len(items), items[-1].seq
                yield items
        if count != self.item_count or last >= self.next_seq:
            raise self.damaged(f"{count} items up to number {last} can be read of {self.item_count}")

    def by_id(self, ids: list[str]) -> list[StoredItem | None]:
        """Returns the items of ids, None where there is none, all as of one moment.

        Raises:
            DataLoss: the file is damaged.
        """
        found = {item.id: item for item in self._select(_SELECT_BY_ID, json.dumps(ids))}
        return [found.get(one) for one in ids]

    def by_seq(self, seqs: list[int], *, max_bytes: int | None = None) -> list[StoredItem | None]:
        """Returns the items of sequence numbers, None where there is none, all as of one moment.

        Raises:
            AnswerTooLarge: their contents have more than `max_bytes`; no more than that were read.
            DataLoss: the file is damaged.
        """
        found: dict[int, StoredItem] = {}
        read = 0
        with self._reader() as reader:
            for row in reader.execute(_SELECT_BY_SEQ, (json.dumps(seqs),)):
                item = self._checked(row)
                found[item.seq] = item
                read += len(item.metadata) + len(item.vector)
                if max_bytes is not None and read > max_bytes:
                    raise answer_too_large()
        return [found.get(one) for one in seqs]

    def after(self, seq: int, limit: int) -> list[StoredItem]:
        """Returns up to `limit` items after a sequence number, in order.

        Raises:
            DataLoss: the file is damaged.
        """
        return self._select(_SELECT_AFTER, seq, limit)

    def _select(self, query: str, *bound: str | int) -> list[StoredItem]:
        with self._reader() as reader:
            return [self._checked(row) for row in reader.execute(query, bound)]

    def commit(self, changes: Changes) -> None:
        """Writes changes in one transaction. When this returns they are on disk; when it raises nothing is written.

        Raises:
            StorageFull: the disk has no room.
            DataLoss: the file is damaged.
        """
        with self._transaction():
            self._writer.executemany(
                "DELETE FROM items WHERE seq IN (SELECT value FROM json_each(?))", ((seq,) for seq in changes.removed)
            )
            self._writer.executemany(
                _INSERT,
                ((*item, _crc(item)) for item in changes.added),
            )
            self._writer.executemany("INSERT OR REPLACE INTO ingests VALUES (?, ?)", changes.ingests.items())
            self._writer.execute(
                "UPDATE collection SET next_seq = ?, item_count = ?", (changes.next_seq, changes.item_count)
            )
            if changes.purge:
                self._writer.execute("PRAGMA user_version = 1")
        self.next_seq, self.item_count = changes.next_seq, changes.item_count
        self.purging |= changes.purge

    def erase(self) -> None:
        """Leaves no byte in the file and its log of anything that was deleted or replaced, whenever that was.

        The file is written anew, with reads going on beside it: that takes time, and room on the disk twice over, in
        proportion to it. Reads that began before are waited for at the end. (`PRAGMA secure_delete` zeroes what each
        write frees from then on: not what an earlier release deleted, nor, for certain, the old bytes of a row that
        SQLite moved to another page.)

        Raises:
            Unavailable: one of them takes longer than some seconds; the mark stays.
            StorageFull: the disk has no room; the mark stays.
            DataLoss: the file is damaged.
        """
        with self._translated(), self._writing:
            self._writer.execute("VACUUM")
            # Copies the new pages over the old, cuts the file to its new length, syncs it, and empties the log.
            if self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]:
                raise Unavailable(
                    "A long read, a backup perhaps, still needs what was deleted.", reason="PURGE_BLOCKED"
                )
            # SQLite does not: a log of the old length might come back with the power.
            sync_file(self._file.with_name(f"{self._file.name}-wal"))
            self._writer.execute("PRAGMA user_version = 0")
        self.purging = False

    def snapshots(self) -> list[SnapshotRecord]:
        """Returns the graphs' files on record, newest first.

        Raises:
            DataLoss: the file is damaged.
        """
        with self._reader() as reader:
            rows = reader.execute(
                "SELECT file, size, sha256, last_seq, library, links, build_width, outside FROM snapshots "
                "ORDER BY file DESC"
            ).fetchall()
        records: list[SnapshotRecord] = []
        for row in rows:
            match row:
                case (
                    str(file),
                    int(size),
                    str(digest),
                    int(last),
                    str(library),
                    int(links),
                    int(width),
                    bytes(outside),
                ):
                    records.append(SnapshotRecord(file, size, digest, last, library, links, width, outside))
                case _:
                    raise self.damaged("the record of its snapshots can't be read")
        return records

    def record_snapshot(self, record: SnapshotRecord, *, keep: int) -> None:
        """Puts a graph's file on record and strikes all but the `keep` newest off it.

        Raises:
            StorageFull: the disk has no room.
            DataLoss: the file is damaged.
        """
        with self._transaction():
            self._writer.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?)", record)
            self._writer.execute(
                "DELETE FROM snapshots WHERE file NOT IN (SELECT file FROM snapshots ORDER BY file DESC LIMIT ?)",
                (keep,),
            )

    def forget_snapshots(self) -> None:
        """Strikes all graphs' files off the record.

        Raises:
            StorageFull: the disk has no room.
            DataLoss: the file is damaged.
        """
        with self._transaction():
            self._writer.execute("DELETE FROM snapshots")

    def damaged(self, how: str) -> DataLoss:
        """Returns the error that says how this store is damaged."""
        return damaged(self._file, how)

    def close(self) -> None:
        """Closes all connections; SQLite then folds the log into the file. Reads that run meanwhile end first."""
        self._readers.close()
        try:
            self._writer.close()
        except apsw.Error as error:
            # All that was acknowledged is in the log, and the next start reads it from there.
            _log.warning("Collection `%s`: its log stays beside its file: %s", self._file.parent.name, error)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # The connection is the writing thread's, but snapshots are put on record by another.
        with self._translated(), self._writing, transaction(self._writer):
            yield

    @contextmanager
    def _reader(self) -> Iterator[apsw.Connection]:
        with self._translated(), self._readers.one() as reader:
            yield reader

    def _checked(self, row: Sequence[object]) -> StoredItem:
        item = checked_item(row, self.spec.dimension)
        if item is None:
            raise self.damaged(f"the item of number {row[0]!r} does not match its checksum")
        return item

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with translated(self._file):
            yield


def read_head(connection: apsw.Connection, file: Path) -> tuple[CollectionSpec, int, int]:
    """Returns a store's collection, the number after the highest ever given out, and the number of items.

    Raises:
        DataLoss: it can't be read, or is of a later version.
        apsw.Error: the file is damaged.
    """
    # The version is read alone, since another version's table may have other columns.
    match connection.execute("SELECT schema_version FROM collection").fetchall():
        case [(int(version),)] if version > SCHEMA_VERSION:
            raise DataLoss(
                f"Collection `{file.parent.name}` was written by a later version of twinsight (store version "
                f"{version}; this one reads up to {SCHEMA_VERSION}); nothing was changed.",
                reason="STORE_TOO_NEW",
            )
        case [(int(version),)] if version == SCHEMA_VERSION:
            pass
        case _:
            raise damaged(file, "its head can't be read")
    head = connection.execute(
        "SELECT id, dimension, metric, model_name, model_digest, created_at, next_seq, item_count FROM collection"
    ).fetchall()
    match head:
        case [
            (
                str(name),
                int(dimension),
                str(metric),
                str(model),
                str(digest),
                float(created),
                int(after),
                int(count),
            )
        ] if metric in list(Metric):
            return CollectionSpec(name, dimension, Metric(metric), model, digest, created), after, count
        case _:
            raise damaged(file, "its head can't be read")


def checked_item(row: Sequence[object], dimension: int) -> StoredItem | None:
    """Returns a row of `items`, its checksum last; None if it is not what was written."""
    match row:
        case (int(seq), str(name), bytes(vector), bytes(metadata), crc) if len(vector) == 4 * dimension:
            item = StoredItem(seq, name, vector, metadata)
            return item if crc == _crc(item) else None
        case _:
            return None


def vector_of(stored: StoredItem) -> np.ndarray:
    """Returns an item's vector as written, `[dimension] float32`."""
    return np.frombuffer(stored.vector, "<f4").astype(np.float32)


def _crc(item: StoredItem) -> int:
    return zlib.crc32(item.metadata, zlib.crc32(item.vector, zlib.crc32(item.id.encode(), item.seq & 0xFFFFFFFF)))
