"""The durable record of a collection: one SQLite file, written by one connection, read by others beside it.

A committed transaction is on disk (WAL, synchronous=FULL). Every item has a checksum, the number of items is stored
separately, and the head and the record of bulk writes have one checksum (`layout`), so that a damaged file is detected.
So is one that contains more than its tables. Nothing here ever deletes or repairs a damaged file.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice, starmap
from pathlib import Path

import apsw

from twinsight_core.errors import DataLoss, StorageFull, TwinsightError, Unavailable
from twinsight_core.host.whole_files import sync_file
from twinsight_core.items import CollectionSpec, answer_too_large
from twinsight_core.sealing.cipher import Cipher
from twinsight_core.sealing.keyring import Key, Keyring
from twinsight_core.storage.forms import form_of, new_seal
from twinsight_core.storage.layout import (
    INSERT_INGEST,
    INSERT_ITEM,
    check_count,
    check_head,
    check_schema,
    check_state,
    lay_out,
    mismatch,
    prepare,
    read_head,
    state_sum,
    write_state_sum,
)
from twinsight_core.storage.records import Changes, SnapshotRecord, StoredItem
from twinsight_core.storage.sqlite import BUSY_MS, Readers, connect, damaged, transaction, translated

FILE_NAME = "store.db"

# Beyond this the log is folded into the file and truncated. SQLite folds it too, every 1,000 pages, but restarts it
# only when a commit finds no read in progress: beside three reading threads it grew by 180 KB a commit, without bound.
_LOG_BYTES = 32 << 20
# Folding 32 MiB took 60 to 230 ms beside three reading threads. This is how long earlier reads are waited for while
# writes are blocked; a backup takes longer, and folding is then postponed.
_FOLD_MS = 500
_FOLD_AGAIN_S = 10.0

# Whole rows: their contents are the form's concern.
_SELECT_ALL = "SELECT * FROM items ORDER BY seq"
_SELECT_AFTER = "SELECT * FROM items WHERE id > ? ORDER BY id LIMIT ?"
_SELECT_NAMES_AFTER = "SELECT id, seq FROM items WHERE id > ? ORDER BY id LIMIT ?"
# One statement for all keys, so that it sees one moment in time.
_SELECT_BY_ID = "SELECT * FROM items WHERE id IN (SELECT value FROM json_each(?))"
_SELECT_BY_SEQ = "SELECT * FROM items WHERE seq IN (SELECT value FROM json_each(?))"
_log = logging.getLogger("twinsight.collection")


class Store:
    """An open store. Every method may be called from any thread.

    Attributes:
        spec: the collection.
        form: how contents are stored.
        ingests: last batch by ingest id, as of opening.
        purging: whether deleted data is still to be erased.
    """

    def __init__(
        self, file: Path, *, vfs: str | None = None, keyring: Keyring | None = None, allow_plain: bool = True
    ) -> None:
        """Opens a store.

        Args:
            file: the database; must exist.
            vfs: name of the SQLite file system to use; None for the platform's.
            keyring: has the key of a store that is encrypted.
            allow_plain: whether an unencrypted store is opened although there is a keyring.

        Raises:
            DataLoss: it is missing, damaged, or of a later version.
            FailedPrecondition: it is encrypted, and the key is missing; or it is not, and must be.
            StorageFull: there is no room to open it.
            Unavailable: it is locked, say, or no more files can be opened.
        """
        self._file = file
        self._readers = Readers(file, vfs)
        self._writing = threading.Lock()
        self._log_file = file.with_name(f"{file.name}-wal")
        self._fold_from_s = 0.0
        with self._translated():
            self._writer = connect(file, apsw.SQLITE_OPEN_READWRITE, vfs)
            try:
                self._head = read_head(self._writer, file)
                check_head(file, self._head)
                check_schema(self._writer, file, self._head)
                self.spec = self._head.spec
                self.form = form_of(self._head, keyring, file, allow_plain=allow_plain)
                self._read_state()
                # A copy of a store (`backups`) has another journal until it is opened.
                self._writer.execute("PRAGMA journal_mode = WAL")
            except BaseException:
                self._writer.close(True)
                raise

    @staticmethod
    def create(file: Path, spec: CollectionSpec, *, vfs: str | None = None, key: Key | None = None) -> None:
        """Creates an empty store in a file that does not exist.

        Args:
            file: the database.
            spec: the collection.
            vfs: name of the SQLite file system to use; None for the platform's.
            key: encrypts it; None to store its contents unencrypted.

        Raises:
            StorageFull: there is no room.
            Unavailable: no more files can be opened.
        """
        with translated(file, name=spec.id):
            connection = connect(file, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, vfs)
            try:
                prepare(connection)
                with transaction(connection):
                    lay_out(connection, spec, None if key is None else new_seal(Cipher.new(key, spec)))
            finally:
                connection.close()

    @property
    def next_seq(self) -> int:
        """One more than the highest number that an item ever had."""
        return self._head.next_seq

    @property
    def item_count(self) -> int:
        """Items in the collection."""
        return self._head.item_count

    @property
    def key_id(self) -> str | None:
        """Id of the key that it is encrypted with; None if it is not."""
        return self._head.seal.key_id if self._head.seal is not None else None

    @property
    def mark(self) -> str:
        """Identifies this store: no other has the same, not even a later one of a collection with the same id."""
        salt = self._head.seal.salt.hex() if self._head.seal is not None else ""
        return f"{self.spec.id}/{self.spec.created_at!r}/{salt}"

    def _read_state(self) -> None:
        self._state_sum = check_state(self._writer, self._file)
        # SQLite keeps this number for the application. It is not a column, so that the format stays the same.
        self.purging = self._writer.execute("PRAGMA user_version").fetchall() != [(0,)]
        self.ingests: dict[str, int] = {}
        for row in self._writer.execute("SELECT * FROM ingests"):
            ingest = self.form.ingest(row)
            if ingest is None:
                raise self.damaged("the record of its bulk writes can't be read")
            self.ingests[ingest[0]] = ingest[1]

    def scan(self) -> Iterator[list[StoredItem]]:
        """Yields all items in the order of writing, a few hundred at a time, each checked.

        Raises:
            DataLoss: a row, or the number of rows, is not what was written.
        """
        count, last = 0, 0
        with self._reader() as reader:
            cursor = reader.execute(_SELECT_ALL)
            while items := [self._checked(row) for row in islice(cursor, 1024)]:
                count, last = count + len(items), items[-1].seq
                yield items
        check_count(self._file, self._head, count, last)

    def by_id(
        self, ids: list[str], *, max_bytes: int | None = None, with_vectors: bool = True
    ) -> list[StoredItem | None]:
        """Returns the items with some ids, None for a missing one, all as of one moment.

        Args:
            ids: the ids.
            max_bytes: limit of contents to read; None for no limit.
            with_vectors: whether vectors count towards it.

        Raises:
            AnswerTooLarge: their contents exceed `max_bytes`; no more than that were read.
            DataLoss: the file is damaged.
        """
        names = json.dumps(self.form.names(ids))
        items = self._select(_SELECT_BY_ID, names, max_bytes=max_bytes, with_vectors=with_vectors)
        found = {item.id: item for item in items}
        return [found.get(one) for one in ids]

    def by_seq(
        self, seqs: list[int], *, max_bytes: int | None = None, with_vectors: bool = True
    ) -> list[StoredItem | None]:
        """Returns the items with some sequence numbers, None for a missing one, all as of one moment.

        Args:
            seqs: the numbers.
            max_bytes: as in `by_id`.
            with_vectors: as in `by_id`.

        Raises:
            AnswerTooLarge: as in `by_id`.
            DataLoss: the file is damaged.
        """
        items = self._select(_SELECT_BY_SEQ, json.dumps(seqs), max_bytes=max_bytes, with_vectors=with_vectors)
        found = {item.seq: item for item in items}
        return [found.get(one) for one in seqs]

    def after(
        self, name: str, limit: int, *, max_bytes: int | None = None, with_vectors: bool = True
    ) -> list[StoredItem]:
        """Returns up to `limit` items after one, in the order of their keys (`Form.names`).

        Args:
            name: key of that one; empty to start with the first.
            limit: how many items.
            max_bytes: as in `by_id`.
            with_vectors: as in `by_id`.

        Raises:
            AnswerTooLarge: as in `by_id`.
            DataLoss: the file is damaged.
        """
        return self._select(_SELECT_AFTER, name, limit, max_bytes=max_bytes, with_vectors=with_vectors)

    def names_after(self, name: str, limit: int) -> list[tuple[str, int]]:
        """Returns keys and sequence numbers of up to `limit` items after one, in the order of `after`."""
        with self._reader() as reader:
            return [(str(found), int(seq)) for found, seq in reader.execute(_SELECT_NAMES_AFTER, (name, limit))]

    def _select(self, query: str, *bound: str | int, max_bytes: int | None, with_vectors: bool) -> list[StoredItem]:
        items: list[StoredItem] = []
        read = 0
        with self._reader() as reader:
            for row in reader.execute(query, bound):
                item = self._checked(row)
                items.append(item)
                read += len(item.metadata) + with_vectors * len(item.vector)
                if max_bytes is not None and read > max_bytes:
                    raise answer_too_large()
        return items

    def commit(self, changes: Changes) -> None:
        """Writes changes in one transaction. When this returns they are on disk; if it raises nothing was written.

        Raises:
            StorageFull: the disk has no room, or fails.
            DataLoss: the file is damaged.
        """
        try:
            self._write(changes)
        except StorageFull:
            # Where the sync failed the log holds the transaction all the same, and a crash would bring it back: another
            # one, of no consequence, is written over it. A disk that fails at that, too, is left as it is.
            with suppress(TwinsightError):
                head = self._head
                self._write(Changes((), (), {}, next_seq=head.next_seq + 1, item_count=head.item_count))
            raise

    def _write(self, changes: Changes) -> None:
        ingests = list(starmap(self.form.ingest_row, changes.ingests.items()))
        names = self.form.names(list(changes.ingests))
        with self._transaction():
            state = self._state_sum - state_sum(self._writer, names)
            self._writer.executemany(
                "DELETE FROM items WHERE seq IN (SELECT value FROM json_each(?))", ((seq,) for seq in changes.removed)
            )
            self._writer.executemany(INSERT_ITEM[self._head.version], map(self.form.row, changes.added))
            self._writer.executemany(INSERT_INGEST[self._head.version], ingests)
            self._writer.execute(
                "UPDATE collection SET next_seq = ?, item_count = ?", (changes.next_seq, changes.item_count)
            )
            if changes.purge:
                self._writer.execute("PRAGMA user_version = 1")
            state = (state + state_sum(self._writer, names)) & 0xFFFFFFFF
            write_state_sum(self._writer, state)
        self._state_sum = state
        self._head = self._head._replace(next_seq=changes.next_seq, item_count=changes.item_count)
        self.purging |= changes.purge

    def fold_log(self) -> None:
        """Folds the log into the file and truncates it, if it is large. Committed data is on disk either way.

        Never raises: if a long read or a full disk prevents it, a later call retries, after some seconds at the
        earliest.
        """
        now = time.monotonic()
        if now < self._fold_from_s or not self._log_is_large():
            return
        try:
            with self._writing:
                self._writer.set_busy_timeout(_FOLD_MS)
                try:
                    blocked = self._empty_log()
                finally:
                    self._writer.set_busy_timeout(BUSY_MS)
        except Exception:  # noqa: BLE001 - committed data does not depend on it
            _log.exception("collection `%s`: can't fold its log into its file", self.spec.id)
            blocked = True
        if blocked:
            self._fold_from_s = now + _FOLD_AGAIN_S

    def _log_is_large(self) -> bool:
        try:
            return self._log_file.stat().st_size > _LOG_BYTES
        except OSError:  # a SQLite file system other than the platform's
            return False

    def _empty_log(self) -> bool:
        """Folds the log into the file and truncates it; returns whether a read prevents that."""
        return bool(self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0])

    def erase(self) -> None:
        """Erases everything that was ever deleted or replaced from the file and its log.

        The file is rewritten while reads continue; this takes time, and twice its size on disk. At the end it waits for
        reads that began before. (`PRAGMA secure_delete` zeroes only what writes free from then on: not what an earlier
        release deleted, nor reliably the old bytes of a row that SQLite moved to another page.)

        Raises:
            Unavailable: such a read takes longer than some seconds; the mark stays.
            StorageFull: the disk has no room; the mark stays.
            DataLoss: the file is damaged.
        """
        with self._translated(), self._writing:
            self._writer.execute("VACUUM")
            # Copies the new pages over the old, truncates the file to its new length, syncs it, and empties the log.
            if self._empty_log():
                raise Unavailable(
                    "A long read, perhaps a backup, still needs the deleted data.", reason="PURGE_BLOCKED"
                )
            # SQLite does not: after a power cut a log of the old length might reappear.
            sync_file(self._log_file)
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
        """Puts a graph's file on record and removes all but the `keep` newest from it.

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
        """Removes all graphs' files from the record.

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
        """Closes all connections, after reads in progress end; SQLite then folds the log into the file."""
        self._readers.close()
        try:
            self._writer.close()
        except apsw.Error as error:
            # All acknowledged writes are in the log, and the next start reads them from there.
            _log.warning("collection `%s`: its log stays beside its file: %s", self._file.parent.name, error)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # The connection belongs to the writing thread, but another thread records snapshots.
        with self._translated(), self._writing, transaction(self._writer):
            yield

    @contextmanager
    def _reader(self) -> Iterator[apsw.Connection]:
        with self._translated(), self._readers.one() as reader:
            yield reader

    def _checked(self, row: Sequence[object]) -> StoredItem:
        item = self.form.item(row)
        if item is None:
            raise mismatch(self._file, row[0])
        return item

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with translated(self._file):
            yield
