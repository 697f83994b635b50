"""A graph's file: a copy that saves rebuilding the graph, never the record itself.

It is written under another name, measured, digested, synced and renamed, and only then put on record. It is loaded only
if its digest is the one on record, since a damaged graph file can crash the process or silently give wrong results.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from twinsight_core.errors import DataLoss, StorageFull
from twinsight_core.host.whole_files import NO_ROOM, sync_file, sync_folder
from twinsight_core.index.hnsw import LIBRARY, GraphParameters, HnswIndex
from twinsight_core.storage.records import SnapshotRecord
from twinsight_core.storage.store import Store

KEPT = 2
_TIMES = ", vectors times 2**"
_PREFIX, _SUFFIX, _UNFINISHED = "graph-", ".hnsw", ".tmp"

_log = logging.getLogger("twinsight.collection")


def save(graph: HnswIndex, last_seq: int, outside: np.ndarray, folder: Path, store: Store) -> None:
    """Writes a graph to a new file, puts it on record, and removes files that are not on record.

    Args:
        graph: the graph.
        last_seq: of the items up to this number the graph holds all that it will.
        outside: `[n] int64`, sequence numbers up to `last_seq` for which it must not be asked.
        folder: the collection's folder.
        store: where it goes on record.

    Raises:
        StorageFull: the disk has no room; earlier files stay.
        OSError: the file can't be written for another reason.
    """
    library, built = _library(graph.exponent), graph.parameters
    beside = outside.astype("<i8").tobytes()
    drafted = SnapshotRecord("", 0, "", last_seq, library, built.links, built.build_width, beside)
    _write(graph.save, graph.file_size(), drafted, folder, store)
    clean(folder, store)


def carry_over(folder: Path, store: Store, new_folder: Path, new_store: Store) -> None:
    """Copies a store's newest sound graph file to another store with the same items, in that one's form.

    Raises:
        DataLoss: the graph's file is not what was sealed.
        StorageFull: the disk has no room.
        OSError: a file can't be read or written for another reason.
    """
    for record in store.snapshots():
        file = folder / record.file
        if _damage(file, record) is None:
            drafted = record._replace(outside=store.form.read_beside(record.outside, _beside_place(record)))
            with store.form.reading(file, _place(record)) as content:
                _write(partial(_copied, content), content.stat().st_size, drafted, new_folder, new_store)
            return


def _write(write: Callable[[Path], int], size: int, drafted: SnapshotRecord, folder: Path, store: Store) -> None:
    """Makes a graph's file and puts it on record.

    Args:
        write: writes the content to a path and returns how many bytes there must be.
        size: how many that will be.
        drafted: what goes on record; name, size and digest are still to come, and `outside` is as it is in memory.
        folder: the collection's folder.
        store: where it goes on record.
    """
    _check_room(folder, size)
    number = 1 + max((_number(record.file) for record in store.snapshots()), default=0)
    file = folder / f"{_PREFIX}{number:012d}{_SUFFIX}"
    record = drafted._replace(file=file.name)
    record = record._replace(outside=store.form.beside(drafted.outside, _beside_place(record)))
    unfinished = file.with_name(file.name + _UNFINISHED)
    try:
        with store.form.writing(unfinished, _place(record), size) as path:
            expected = write(path)
            written = path.stat().st_size
            if written != expected:
                # The library reports success on a full disk.
                raise StorageFull(
                    f"A snapshot of {expected} bytes was truncated at {written}; the disk is full.", reason="DISK_FULL"
                )
        record = record._replace(size=unfinished.stat().st_size, sha256=digest_of(unfinished, record.outside))
        sync_file(unfinished)
        unfinished.rename(file)
        sync_folder(folder)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise StorageFull(f"A snapshot of {size} bytes does not fit on the disk.", reason="DISK_FULL") from error
    finally:
        unfinished.unlink(missing_ok=True)
    store.record_snapshot(record, keep=KEPT)


def _check_room(folder: Path, size: int) -> None:
    """Raises `StorageFull` if a file can't fit, before filling the rest of the disk with part of it."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if disk.f_blocks and free < size:  # some file systems do not say
        raise StorageFull(
            f"A snapshot of {size} bytes does not fit: the disk has {free} bytes left.", reason="DISK_FULL"
        )


def load(
    folder: Path, store: Store, parameters: GraphParameters, *, alive: np.ndarray
) -> tuple[HnswIndex, int, np.ndarray] | None:
    """Returns the newest sound graph on record, with its `last_seq` and `outside`; None if there is none.

    Skipped graphs are logged as warnings.

    Args:
        folder: the collection's folder.
        store: where the files are on record.
        parameters: how graphs are built now; one that was built differently is skipped.
        alive: `[n] int64`, sequence numbers of all items.
    """
    for record in store.snapshots():
        flaw = _flaw(folder / record.file, record, parameters)
        if flaw is None:
            try:
                outside = store.form.read_beside(record.outside, _beside_place(record))
                with store.form.reading(folder / record.file, _place(record)) as path:
                    graph = HnswIndex.load(
                        path,
                        store.spec.dimension,
                        store.spec.metric,
                        parameters,
                        alive=alive,
                        exponent=_exponent(record.library) or 0,
                    )
            except (RuntimeError, DataLoss, OSError) as error:
                flaw = str(error)
            else:
                return graph, record.last_seq, np.frombuffer(outside, "<i8").astype(np.int64)
        _log.warning("collection `%s`: ignoring snapshot %s: %s", store.spec.id, record.file, flaw)
    return None


def drop(folder: Path, store: Store) -> None:
    """Removes all graphs' files, on record or not; they are gone from the disk when this returns.

    Raises:
        StorageFull: the disk has no room.
    """
    store.forget_snapshots()
    clean(folder, store)
    sync_folder(folder)


def clean(folder: Path, store: Store) -> None:
    """Removes graphs' files that are not on record, including unfinished ones."""
    recorded = {record.file for record in store.snapshots()}
    for file in folder.glob(f"{_PREFIX}*{_SUFFIX}*"):
        if file.name not in recorded:
            file.unlink(missing_ok=True)


def _flaw(file: Path, record: SnapshotRecord, parameters: GraphParameters) -> str | None:
    if _exponent(record.library) is None:
        return f"it was written by {record.library}, and this is {LIBRARY}"
    if (record.links, record.build_width) != (parameters.links, parameters.build_width):
        return "it was built with other parameters"
    return _damage(file, record)


def _library(exponent: int) -> str:
    """Returns what goes on record as the library of a graph that was built with an exponent.

    A release that does not know exponents takes it for another library, and rebuilds the graph.
    """
    return f"{LIBRARY}{_TIMES}{exponent}" if exponent else LIBRARY


def _exponent(library: str) -> int | None:
    """Returns the exponent of a graph by its library on record; None if that is not this one."""
    name, _, exponent = library.partition(_TIMES)
    if name != LIBRARY:
        return None
    try:
        return int(exponent or 0)
    except ValueError:
        return None


def _damage(file: Path, record: SnapshotRecord) -> str | None:
    try:
        if file.stat().st_size != record.size:
            return f"it has {file.stat().st_size} bytes instead of {record.size}"
        digest = digest_of(file, record.outside)
    except OSError as error:
        return error.strerror or type(error).__name__
    return None if digest == record.sha256 else "its content does not match its digest"


def _place(record: SnapshotRecord) -> bytes:
    """Returns what a graph's file is bound to: its name, and its recorded contents."""
    return f"{record.file} {record.last_seq} {hashlib.sha256(record.outside).hexdigest()}".encode()


def _beside_place(record: SnapshotRecord) -> bytes:
    """Returns what `outside` is bound to: the file beside which it is on record, and that file's recorded contents."""
    return f"{record.file} {record.last_seq}".encode()


def _copied(source: Path, target: Path) -> int:
    shutil.copyfile(source, target)
    return source.stat().st_size


def digest_of(file: Path, beside: bytes) -> str:
    """Returns the digest that goes on record for a graph's file and its `outside`, both as they are stored."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256")
    digest.update(beside)
    return digest.hexdigest()


def _number(name: str) -> int:
    return int(name.removeprefix(_PREFIX).removesuffix(_SUFFIX))
