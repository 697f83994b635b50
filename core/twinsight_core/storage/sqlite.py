"""SQLite's connections, and its errors translated to the project's."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import apsw

from twinsight_core.errors import DataLoss, StorageFull, TwinsightError, Unavailable
from twinsight_core.host.open_files import exhausted, limit

DAMAGE = (
    apsw.NotADBError,
    apsw.CorruptError,
    apsw.ConstraintError,
    apsw.FormatError,
    apsw.MismatchError,
    apsw.RangeError,
    apsw.SQLError,
    apsw.TooBigError,
    UnicodeDecodeError,  # SQLite returns the bytes of a text unchecked
)
"""Errors of SQLite, or of reading its results, for a file that is not a database or not what was written."""

BUSY_MS = 5000
"""How long to wait for a lock. Only another program can hold one against us: a backup, say."""

_READ_ERRORS = frozenset(
    {
        apsw.SQLITE_IOERR,  # says no more
        apsw.SQLITE_IOERR_READ,
        apsw.SQLITE_IOERR_SHORT_READ,
        apsw.SQLITE_IOERR_DATA,
        apsw.SQLITE_IOERR_CORRUPTFS,
        apsw.SQLITE_IOERR_IN_PAGE,
    }
)
_WRITE_ERRORS = frozenset(
    {
        apsw.SQLITE_IOERR_WRITE,
        apsw.SQLITE_IOERR_FSYNC,
        apsw.SQLITE_IOERR_DIR_FSYNC,
        apsw.SQLITE_IOERR_TRUNCATE,
        apsw.SQLITE_IOERR_BEGIN_ATOMIC,
        apsw.SQLITE_IOERR_COMMIT_ATOMIC,
        apsw.SQLITE_IOERR_ROLLBACK_ATOMIC,
        apsw.SQLITE_IOERR_DELETE,
    }
)


def distrust(connection: apsw.Connection) -> None:
    """Prevents running anything in a file: we never put triggers or views into one, but others may."""
    for switch in (
        apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER,
        apsw.SQLITE_DBCONFIG_ENABLE_VIEW,
        apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA,
    ):
        connection.config(switch, 0)


def connect(file: Path, flags: int, vfs: str | None) -> apsw.Connection:
    """Returns a connection that syncs its commits and runs nothing that the file contains.

    Args:
        file: the database.
        flags: how to open it, SQLITE_OPEN_...
        vfs: name of the SQLite file system; None for the platform's.
    """
    connection = apsw.Connection(str(file), flags=flags, vfs=vfs)
    try:
        distrust(connection)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.set_busy_timeout(BUSY_MS)  # first: the next statement needs a lock
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close(True)  # otherwise its files stay open as long as the error is referenced
        raise
    return connection


def keep_temporary_files_in(folder: Path) -> None:
    """Makes SQLite write its temporary files, of a purge for instance, to the disk that holds the collections.

    They are unlinked temporary files, which end with their connection. This applies to the whole process from then on;
    a folder in the environment (`SQLITE_TMPDIR`) takes precedence. If the folder disappears, SQLite uses `/var/tmp`.

    Args:
        folder: created if it does not exist.

    Raises:
        OSError: it can't be created.
    """
    if "SQLITE_TMPDIR" in os.environ:
        return
    folder.mkdir(exist_ok=True, mode=0o700)
    with closing(apsw.Connection(":memory:")) as connection:
        # The value can't be bound. SQLite deprecates the pragma, but has no other way for a whole process.
        connection.execute("PRAGMA temp_store_directory = '{}'".format(str(folder.absolute()).replace("'", "''")))


@cache
def _further_readers() -> threading.Semaphore:
    """Returns the semaphore for readers beyond the first of each database, in the whole process.

    Each takes two files, so all of them take a sixteenth of the limit: a quarter of what is reserved for connections.
    """
    return threading.Semaphore(int(min(limit(), 1 << 20)) // 32)


class Readers:
    """Connections that read one database, up to four: always one, more while the process has room.

    All are kept until the end, since SQLite keeps a file open for each connection that is closed beside others. Their
    number is the most that ever read at the same time; without a bound, that would be the number of callers.
    """

    _MOST = 4

    def __init__(self, file: Path, vfs: str | None) -> None:
        self._file = file
        self._vfs = vfs
        self._idle: list[apsw.Connection] = []
        self._count = 0
        self._changed = threading.Condition()
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[apsw.Connection]:
        """Lends a connection; waits for one if there may be no more. A caller must not borrow a second one.

        Raises:
            Unavailable: the readers are closed.
            apsw.Error: none can be opened.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle or self._may_open())
            if self._closed:
                raise self._is_closed()
            reader = self._idle.pop() if self._idle else None
        try:
            if reader is None:
                reader = self._opened()
                if self._closed:  # and deleted, perhaps: a new collection's file may have its path by now
                    raise self._is_closed()
            yield reader
        finally:
            with self._changed:
                if reader is not None and not self._closed:
                    self._idle.append(reader)
                else:
                    self._gone(reader)
                self._changed.notify()

    def close(self) -> None:
        """Closes the idle ones; those on loan are closed when they are returned."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            for reader in idle:
                self._gone(reader)
            self._changed.notify_all()

    def _opened(self) -> apsw.Connection:
        try:
            # Not SQLITE_OPEN_READONLY: after a crash the first to open has to recover the log's index.
            return connect(self._file, apsw.SQLITE_OPEN_READWRITE, self._vfs)
        except apsw.Error as error:
            if self._closed:  # and deleted, perhaps: its file is missing, not damaged
                raise self._is_closed() from error
            raise

    def _is_closed(self) -> Unavailable:
        return Unavailable(f"Collection `{self._file.parent.name}` is closed.", reason="COLLECTION_CLOSED")

    def _may_open(self) -> bool:
        """Reserves a place for one more, and returns whether there was one."""
        if self._count and (self._count == self._MOST or not _further_readers().acquire(blocking=False)):
            return False
        self._count += 1
        return True

    def _gone(self, reader: apsw.Connection | None) -> None:
        """Closes a connection, None if it could not be opened, and returns its place."""
        self._count -= 1
        if self._count:
            _further_readers().release()
        if reader is not None:
            reader.close()


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """Commits everything done within, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # On a full disk SQLite may have rolled back by itself; `with connection` fails on that.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


_log = logging.getLogger("twinsight.collection")


def damaged(file: Path, how: str, *, name: str = "") -> DataLoss:
    """Returns the error for a damaged collection file; `name` is the collection's if it is not the folder's."""
    return DataLoss(
        f"Collection `{name or file.parent.name}` is damaged: {how}. Nothing was deleted; restore its folder from a "
        "backup.",
        reason="COLLECTION_DAMAGED",
    )


def unreadable(file: Path) -> DataLoss:
    """Returns the error for a collection whose folder or files the server has no permission to read and write."""
    return DataLoss(
        f"Collection `{file.parent.name}` can't be opened: the server has no permission to read and write all of its "
        "folder. Nothing was deleted; grant it and restart the server.",
        reason="COLLECTION_UNREADABLE",
    )


def locked(file: Path) -> DataLoss:
    """Returns the error for a collection whose file another program had locked when it was to be opened."""
    return DataLoss(
        f"Collection `{file.parent.name}` can't be opened: another program has locked its file. Nothing was deleted; "
        "end that program and restart the server.",
        reason="COLLECTION_LOCKED",
    )


def no_more_files(code: int) -> Unavailable:
    """Returns the error for a file that can't be opened since too many are open, and logs it.

    Args:
        code: EMFILE: as many as the process may have; ENFILE: as many as the system may.
    """
    if code == errno.EMFILE:
        message = (
            f"No more files can be opened: the process has reached its limit ({limit():g}). Close connections, delete "
            "collections, or raise the limit of open files (`ulimit -n`)."
        )
    else:
        message = "No more files can be opened: the system has reached its limit; raise it (`fs.file-max`)."
    _log.error("%s", message)
    return Unavailable(message, reason="OPEN_FILES_EXHAUSTED")


@contextmanager
def translated(file: Path, *, name: str = "") -> Iterator[None]:
    """Translates SQLite's errors to the project's.

    Args:
        file: the database.
        name: the collection's; empty: the name of its folder.
    """
    name = name or file.parent.name
    try:
        yield
    except TwinsightError:
        raise
    except apsw.FullError as error:
        raise _full() from error
    except apsw.BusyError as error:
        raise Unavailable(f"Collection `{name}` is locked by another program.", reason="COLLECTION_BUSY") from error
    except (apsw.ReadOnlyError, apsw.PermissionsError) as error:
        raise Unavailable(
            f"Collection `{name}`: its file may not be written.", reason="COLLECTION_READ_ONLY"
        ) from error
    except apsw.CantOpenError as error:
        raise _not_opened(file, name) from error
    except apsw.IOError as error:
        # SQLite's own words are for the log: the error reaches callers.
        _log.error("%s: %s", file, error)
        raise _io_failed(file, name, getattr(error, "extendedresult", apsw.SQLITE_IOERR)) from error
    except DAMAGE as error:
        _log.error("%s: %s", file, error)
        raise damaged(file, "its file can't be read", name=name) from error
    except apsw.Error as error:
        # Nothing that speaks of the file: no reason either to take the collection for damaged from then on.
        _log.exception("%s", file)
        raise _unusable(name, "used") from error


def _not_opened(file: Path, name: str) -> DataLoss | Unavailable:
    """Returns why a file can't be opened, which SQLite does not say."""
    # No reason to take the collection for damaged from then on.
    if code := exhausted():
        return no_more_files(code)
    # Asked without opening: closing a second descriptor would give up SQLite's locks.
    files = [one for suffix in ("", "-wal", "-shm") if os.path.lexists(one := f"{file}{suffix}")]
    both = os.R_OK | os.W_OK
    if not os.access(file.parent, both | os.X_OK) or not all(os.access(one, both) for one in files):
        return unreadable(file)
    if not file.is_file():
        return damaged(file, "its file is missing", name=name)
    return _unusable(name, "opened")


def _io_failed(file: Path, name: str, code: int) -> TwinsightError:
    """Returns what an I/O error means for the collection; `code` is SQLite's extended one."""
    if code == apsw.SQLITE_IOERR_SHMSIZE:  # no room for the log's index
        return _full()
    if code in _READ_ERRORS:
        return damaged(file, "its file can't be read", name=name)
    if code in _WRITE_ERRORS:
        # A quota, say, or a disk that takes nothing more: what is on it can still be read.
        return StorageFull("Writing to the disk failed; nothing of the call was written.", reason="DISK_WRITE_FAILED")
    # Locks, shared memory, memory: no reason to take the collection for damaged from then on.
    return _unusable(name, "used")


def _unusable(name: str, how: str) -> Unavailable:
    return Unavailable(f"Collection `{name}`: its file can't be {how} at the moment.", reason="COLLECTION_UNAVAILABLE")


def _full() -> StorageFull:
    return StorageFull("The disk has no room; nothing of the call was written.", reason="DISK_FULL")
