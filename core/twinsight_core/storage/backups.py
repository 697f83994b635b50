"""Backups: copies of collections, made while a server writes to them.

    <backup>/backup.json          its contents: format version, time, and each collection's digest, size and counts
    <backup>/<id>/store.db        the record; without graphs, since they are rebuilt

1. A read-only connection opens the store of the running server: SQLite allows readers of other processes beside the
   writer, and each sees one moment. The copy contains everything acknowledged before that moment, and no partial write.
2. `VACUUM INTO` writes the live rows of that moment to a new file, without log and free pages, and so without deleted
   data.
3. The copy's tables are checked, and each row against its checksum; a backup that can't be restored is not a backup.
   That needs no key: the backup of an encrypted collection is encrypted with the same one.
4. Files and manifest are synced, and the folder is renamed into place. Until then it is `.NAME.unfinished` beside it.
   A run that ends removes that; if a run was killed, the next run to the same place does.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import apsw

from twinsight_core.errors import AlreadyExists, DataLoss, InvalidInput, NotFound, TwinsightError, Unavailable
from twinsight_core.host.bounded_files import FileTooLarge, read_bounded
from twinsight_core.host.whole_files import sync_file, sync_folder
from twinsight_core.items import is_collection_id
from twinsight_core.json_fields import JsonFields
from twinsight_core.storage.choosing import chosen
from twinsight_core.storage.data_folder import COLLECTIONS, REPLACED, collection_folders, discard, remove
from twinsight_core.storage.layout import Head, check_head, check_rows, check_schema, read_head
from twinsight_core.storage.sqlite import connect, damaged, transaction, translated, unreadable
from twinsight_core.storage.store import FILE_NAME

FORMAT_VERSION = 1
MANIFEST = "backup.json"
_MOST_MANIFEST_BYTES = 64 << 20
_STEPS = 1000  # of SQLite's virtual machine between two calls, about 0.1 ms
_TRIES = 5
_REPLACED_WITHIN_S, _LOOK_S = 2.0, 0.02  # it takes two renames


@dataclass(frozen=True)
class BackupEntry:
    """One collection of a backup.

    Attributes:
        id: its id, and the name of its folder.
        size: bytes of its file.
        sha256: the file's digest, hexadecimal.
        item_count: items in it.
        next_seq: one more than the highest number that an item ever had.
    """

    id: str
    size: int
    sha256: str
    item_count: int
    next_seq: int


@dataclass(frozen=True)
class Backup:
    """A backup's manifest.

    Attributes:
        created_at: seconds since 1970-01-01 UTC.
        collections: its collections.
    """

    created_at: float
    collections: tuple[BackupEntry, ...]


def back_up(
    data_dir: Path,
    out: Path,
    *,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    on_damaged: Callable[[TwinsightError], None] | None = None,
) -> Backup:
    """Copies collections of a data folder, whether or not a server uses it, into a new folder.

    Args:
        data_dir: the data folder; not changed.
        out: the folder to create, not among the collections. It is created completely or not at all.
        only: ids of the collections, or patterns of them; empty for all.
        exclude: ids and patterns of those to leave out.
        on_damaged: called, once the backup exists, for each collection that can't be copied and is not in it; None to
            make no backup then.

    Raises:
        AlreadyExists: `out` exists, or is being made.
        InvalidInput: `out` is among the collections.
        NotFound: there is no such collection, or no data folder.
        DataLoss: collections are damaged, and `on_damaged` is None or no other is left; the message names them all.
        StorageFull: the disk has no room.
        Unavailable: as with damage, if a collection was replaced repeatedly or its replacement was interrupted; or no
            more files can be opened.
        OSError: `out` can't be written.
    """
    root = data_dir / COLLECTIONS
    if not root.is_dir():
        raise NotFound(f"`{data_dir}` is not a data folder: it has no `{COLLECTIONS}`.", reason="DATA_DIR_NOT_FOUND")
    # A collection that is being replaced is not in its place for a moment, and would not be listed.
    aside = filter(is_collection_id, (one.name.removeprefix(REPLACED) for one in root.glob(f"{REPLACED}*")))
    existing = sorted({*aside, *(folder.name for folder in collection_folders(root))})
    made: list[BackupEntry] = []
    failed: list[DataLoss | Unavailable] = []
    with made_whole(out, data_dir) as folder:
        for name in chosen(existing, only=only, exclude=exclude):
            try:
                made.append(_copied_in_the_end(root / name, folder / name))
            except NotFound:
                # A collection that is deleted meanwhile only matters if it was asked for.
                if name in only:
                    raise
            except (DataLoss, Unavailable) as error:
                if error.reason == "OPEN_FILES_EXHAUSTED":
                    raise
                failed.append(error)
                remove(folder / name)
        if failed and (on_damaged is None or not made):
            raise _of_all(failed)
        backup = write_manifest(folder, made)
    if on_damaged is not None:
        for one in failed:
            on_damaged(one)
    return backup


def _of_all(failed: Sequence[DataLoss | Unavailable]) -> TwinsightError:
    """Returns the error for a backup that is not made because collections can't be copied."""
    if len(failed) == 1:
        return failed[0]
    return DataLoss(
        f"{len(failed)} collections can't be backed up; nothing was written.",
        reason="COLLECTION_DAMAGED",
        listed=[one.message for one in failed],
    )


def _copied_in_the_end(source: Path, target: Path) -> BackupEntry:
    """Copies a collection, and retries if another was put in its place meanwhile, by `rekey` for instance."""
    for _ in range(_TRIES):
        try:
            return _copied(source, target)
        except NotFound:
            if not _is_there(source):
                raise
    raise Unavailable(
        f"Collection `{source.name}` was replaced each time it was copied. Try again.",
        reason="COLLECTION_REPLACED",
    )


def _is_there(source: Path) -> bool:
    """Returns whether a collection has its folder; one that is being replaced has none for a moment.

    Raises:
        Unavailable: its replacement was interrupted; starting the server resolves that.
    """
    ends = time.monotonic() + _REPLACED_WITHIN_S
    while not source.is_dir():
        if not os.path.lexists(source.parent / f"{REPLACED}{source.name}"):
            return source.is_dir()
        if time.monotonic() >= ends:
            raise Unavailable(
                f"The replacement of collection `{source.name}` was interrupted. Start the server once to put back the "
                "earlier one.",
                reason="COLLECTION_REPLACED",
            )
        time.sleep(_LOOK_S)
    return True


@contextmanager
def made_whole(out: Path, data_dir: Path) -> Iterator[Path]:
    """Yields a new folder beside `out`, which is renamed to it at the end, or removed if the block fails.

    Its name is the same for every run to `out`; it is emptied of what a killed run left.

    Raises:
        InvalidInput: `out` is among the collections of the data folder that it is made from.
        AlreadyExists: `out` exists, or is being made.
        OSError: the folder around it can't be written, or leftovers can't be removed.
    """
    _check_outside(out, data_dir)
    _check_absent(out)
    with ExitStack() as held:
        folder = _unfinished(out, held)
        try:
            _check_absent(out)  # the previous holder of the folder may have made it
            for left in folder.iterdir():
                remove(left)
            yield folder
            folder.rename(out)
            sync_folder(out.parent)
        except BaseException:
            discard(folder)
            raise


def entry_of(file: Path) -> BackupEntry:
    """Prepares a collection's file with `settled`, and returns its manifest entry.

    Raises:
        DataLoss: it is damaged, or of a later version.
    """
    head = settled(file)
    return BackupEntry(head.spec.id, file.stat().st_size, digest_of(file), head.item_count, head.next_seq)


def settled(file: Path) -> Head:
    """Removes graphs from a collection's file, checks its tables and rows, syncs it, and returns its head.

    Raises:
        DataLoss: it is damaged, or of a later version.
    """
    with translated(file):
        connection = connect(file, apsw.SQLITE_OPEN_READWRITE, None)
        try:
            head = read_head(connection, file)
            check_head(file, head)
            check_schema(connection, file, head)
            with transaction(connection):
                connection.execute("DELETE FROM snapshots")
            check_rows(connection, file, head)
        finally:
            connection.close()
    sync_file(file)
    sync_folder(file.parent)
    return head


def write_manifest(folder: Path, entries: Sequence[BackupEntry]) -> Backup:
    """Writes a backup's manifest, the last of its files, and returns it."""
    backup = Backup(time.time(), tuple(entries))
    file = folder / MANIFEST
    file.write_bytes(manifest_of(backup))
    sync_file(file)
    sync_folder(folder)
    return backup


def manifest_of(backup: Backup) -> bytes:
    """Returns the content of a backup's manifest."""
    content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(backup)}
    return json.dumps(content, indent=2).encode() + b"\n"


def read_manifest(folder: Path) -> Backup:
    """Returns a backup's manifest.

    Raises:
        NotFound: the folder is not a backup.
        DataLoss: the manifest is damaged, or of a later version.
    """
    try:
        content = read_bounded(folder / MANIFEST, _MOST_MANIFEST_BYTES)
    except FileTooLarge as error:
        raise backup_damaged(folder, f"`{MANIFEST}` can't be read: {error.strerror}") from error
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"`{folder}` is not a backup: it has no `{MANIFEST}`.", reason="BACKUP_NOT_FOUND") from None
    try:
        fields = JsonFields(json.loads(content))
        version = fields.integer("format_version", least=1, most=2**31)
        if version > FORMAT_VERSION:
            raise DataLoss(
                f"Backup `{folder}` was written by a later version of twinsight (format version {version}; this one "
                f"reads up to {FORMAT_VERSION}).",
                reason="BACKUP_TOO_NEW",
            )
        fields.check_names({"format_version", "created_at", "collections"})
        entries = tuple(map(_entry, fields.objects("collections", BackupEntry.__dataclass_fields__)))
        return Backup(fields.number("created_at"), entries)
    except (ValueError, KeyError, RecursionError) as error:
        raise backup_damaged(folder, f"`{MANIFEST}` can't be read: {error}") from error


def backup_damaged(folder: Path, how: str) -> DataLoss:
    """Returns the error for a backup that is not what was written."""
    return DataLoss(f"Backup `{folder}` is damaged: {how}", reason="BACKUP_DAMAGED")


def digest_of(file: Path) -> str:
    """Returns a file's SHA-256, hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _entry(fields: JsonFields) -> BackupEntry:
    name = fields.text("id")
    if not is_collection_id(name):  # it becomes part of paths
        raise ValueError(f"`id` (={name[:80]!r}) is not a collection id.")
    size, count, after = (fields.integer(one, least=0, most=2**63 - 1) for one in ("size", "item_count", "next_seq"))
    return BackupEntry(name, size, fields.text("sha256"), count, after)


def _copied(source: Path, target: Path) -> BackupEntry:
    """Copies a collection's file from one folder into a new one, and returns its manifest entry."""
    file = source / FILE_NAME
    try:
        before = _identity(file)
    except PermissionError:
        raise unreadable(file) from None
    target.mkdir()
    try:
        with translated(file):
            # A read-only connection never folds the log into the file and never removes it.
            connection = connect(file, apsw.SQLITE_OPEN_READONLY, None)
            try:
                connection.set_progress_handler(_go_on, _STEPS)
                connection.execute("VACUUM INTO ?", (str(target / FILE_NAME),))
            finally:
                connection.close()
    except TwinsightError:
        if source.is_dir() and _identity(file) == before:
            raise
    if not source.is_dir() or _identity(file) != before:
        # The file and the log that were read may belong to two collections.
        shutil.rmtree(target)
        raise NotFound(
            f"Collection `{source.name}` was deleted while it was copied; nothing was written.",
            reason="COLLECTION_NOT_FOUND",
        )
    entry = entry_of(target / FILE_NAME)
    if entry.id != source.name:
        raise damaged(file, f"it is the file of collection `{entry.id}`")
    return entry


def _check_outside(out: Path, data_dir: Path) -> None:
    """Rejects a place where the server would take the copy for a collection."""
    collections = data_dir / COLLECTIONS
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(collections)):
        raise InvalidInput(
            f"`{out}` is among the collections, in `{collections}`; nothing was written.", reason="BACKUP_IN_DATA_DIR"
        )


def _check_absent(out: Path) -> None:
    if not out.parent.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(out.parent))
    if os.path.lexists(out):
        raise AlreadyExists(f"`{out}` already exists; nothing was written.", reason="BACKUP_EXISTS")


def _unfinished(out: Path, held: ExitStack) -> Path:
    """Makes the folder that becomes `out`, or takes the one that a killed run left, and locks it until `held` ends.

    Raises:
        AlreadyExists: another run holds it.
        OSError: it can't be made, is not a folder, or is another user's, who could change its contents.
    """
    folder = out.parent / f".{out.name}.unfinished"
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError), ExitStack() as opened:  # removed by its holder: make it again
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "Belongs to another user", str(folder))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyExists(
                    f"`{out}` is already being made; nothing was written.", reason="BACKUP_RUNS"
                ) from None
            except OSError:
                # Network file systems can't lock folders. A unique name disturbs no other run, and none finds it.
                with suppress(OSError):
                    folder.rmdir()
                return Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
            if os.path.samestat(os.fstat(descriptor), folder.lstat()):
                os.fchmod(descriptor, 0o700)
                held.push(opened.pop_all())
                return folder


def _go_on() -> bool:
    """Tells SQLite to continue a copy; the call itself lets Python handle signals."""
    return False


def _identity(file: Path) -> tuple[int, int] | None:
    """Returns what distinguishes a file from another of its name; None if there is none."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
