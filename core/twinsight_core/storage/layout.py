"""How a collection's file is laid out, and what can be said of it without reading what is in its rows.

There are two layouts, which differ in what a row of `items` and `ingests` holds. In version 1 the contents lie
plainly. In version 2 they are sealed with a key that is not in the folder (`sealing`), and what a row is found by is a
pseudonym. In both a row of `items` ends with the checksum of all that is before it, so that a file can be checked,
copied and salvaged without the key.

The rows that say how the collection stands, its head and how far bulk writes got, have no column for a checksum. One of
all of them lies in the number that SQLite keeps for the application in the file's header, and is written with them.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import apsw

from twinsight_core.errors import DataLoss
from twinsight_core.index.base import Metric
from twinsight_core.items import MAX_DIMENSION, CollectionSpec
from twinsight_core.storage.sqlite import damaged

_YEAR_10000_S = 253402300800
"""A protobuf timestamp is before it."""

PLAIN, SEALED = 1, 2
NEWEST_VERSION = SEALED

# 16 KiB pages: three rows of a 512-component vector fill one well, where an 8 KiB page would waste a quarter.
_PAGE_SIZE = "PRAGMA page_size = 16384"
_COLLECTION = """
CREATE TABLE collection (
    schema_version INTEGER NOT NULL, id TEXT NOT NULL, dimension INTEGER NOT NULL, metric TEXT NOT NULL,
    model_name TEXT NOT NULL, model_digest TEXT NOT NULL, created_at REAL NOT NULL,
    next_seq INTEGER NOT NULL, item_count INTEGER NOT NULL
) STRICT;"""
_CONTENTS = {
    PLAIN: """
CREATE TABLE items (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, vector BLOB NOT NULL, metadata BLOB NOT NULL, crc INTEGER NOT NULL
) STRICT;
CREATE TABLE ingests (id TEXT PRIMARY KEY, batch INTEGER NOT NULL) STRICT, WITHOUT ROWID;""",
    SEALED: """
CREATE TABLE seal (key_id TEXT NOT NULL, salt BLOB NOT NULL, proof BLOB NOT NULL, crc INTEGER NOT NULL) STRICT;
CREATE TABLE items (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, sealed BLOB NOT NULL, crc INTEGER NOT NULL
) STRICT;
CREATE TABLE ingests (id TEXT PRIMARY KEY, batch INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT, WITHOUT ROWID;""",
}
_SNAPSHOTS = """
CREATE TABLE snapshots (
    file TEXT PRIMARY KEY, size INTEGER NOT NULL, sha256 TEXT NOT NULL, last_seq INTEGER NOT NULL,
    library TEXT NOT NULL, links INTEGER NOT NULL, build_width INTEGER NOT NULL, outside BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""
INSERT_ITEM = {PLAIN: "INSERT INTO items VALUES (?, ?, ?, ?, ?)", SEALED: "INSERT INTO items VALUES (?, ?, ?, ?)"}
INSERT_INGEST = {
    PLAIN: "INSERT OR REPLACE INTO ingests VALUES (?, ?)",
    SEALED: "INSERT OR REPLACE INTO ingests VALUES (?, ?, ?)",
}


class Seal(NamedTuple):
    """What a sealed file says of its key.

    Attributes:
        key_id: of the key in the keyring.
        salt: random; with it the file's own keys are derived.
        proof: sealed with one of them: who opens it has the right key, and the head is what was written.
    """

    key_id: str
    salt: bytes
    proof: bytes


class Head(NamedTuple):
    """What a collection's file says of itself.

    Attributes:
        spec: the collection.
        next_seq: the number after the highest that an item ever had.
        item_count: items in it.
        seal: of a sealed file; None: its contents lie plainly.
    """

    spec: CollectionSpec
    next_seq: int
    item_count: int
    seal: Seal | None

    @property
    def version(self) -> int:
        """Version of the layout."""
        return PLAIN if self.seal is None else SEALED


def lay_out(connection: apsw.Connection, spec: CollectionSpec, seal: Seal | None) -> None:
    """Creates the tables of an empty collection, within a transaction of an empty database (see `prepare`)."""
    version = PLAIN if seal is None else SEALED
    connection.execute(_tables(version))
    connection.execute(
        "INSERT INTO collection VALUES (?, ?, ?, ?, ?, ?, ?, 1, 0)",
        (
            version,
            spec.id,
            spec.dimension,
            spec.metric.value,
            spec.model_name,
            spec.model_digest,
            spec.created_at,
        ),
    )
    if seal is not None:
        connection.execute("INSERT INTO seal VALUES (?, ?, ?, ?)", (*seal, checksum(0, *seal)))
    write_state_sum(connection, state_sum(connection))


def prepare(connection: apsw.Connection) -> None:
    """Prepares a new database for `lay_out`: sets what can't be set in a transaction."""
    connection.execute(_PAGE_SIZE)
    connection.execute("PRAGMA journal_mode = WAL")


def _tables(version: int) -> str:
    return _COLLECTION + _CONTENTS[version] + _SNAPSHOTS


def _schema(connection: apsw.Connection) -> list[str]:
    """Returns a file's tables, indexes, triggers and views, with normalised whitespace."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return sorted(" ".join(ascii(row).replace("\\n", " ").split()) for row in rows)


@functools.cache
def _schema_made(version: int) -> list[str]:
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute(_tables(version))
        return _schema(connection)


def check_schema(connection: apsw.Connection, file: Path, head: Head) -> None:
    """Checks that a file has exactly the tables of its version as they were created.

    A trigger or index that somebody adds can keep data that is to be erased, or prevent its erasure.

    Raises:
        DataLoss: it does not.
        apsw.Error: the file is damaged.
    """
    if _schema(connection) != _schema_made(head.version):
        raise damaged(file, "it does not have exactly the tables that it was created with")


def read_head(connection: apsw.Connection, file: Path) -> Head:
    """Returns the head of a collection's file.

    Raises:
        DataLoss: it can't be read, or is of a later version.
        apsw.Error: the file is damaged.
    """
    # The version is read on its own, since another version's table may have other columns.
    match connection.execute("SELECT schema_version FROM collection").fetchall():
        case [(int(version),)] if version > NEWEST_VERSION:
            raise DataLoss(
                f"Collection `{file.parent.name}` was written by a later version of twinsight (store version "
                f"{version}; this one reads up to {NEWEST_VERSION}); nothing was changed.",
                reason="STORE_TOO_NEW",
            )
        case [(int(version),)] if version in _CONTENTS:
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
        ] if metric in list(Metric) and 1 <= dimension <= MAX_DIMENSION:
            spec = CollectionSpec(name, dimension, Metric(metric), model, digest, created)
        case _:
            raise damaged(file, "its head can't be read")
    return Head(spec, after, count, _read_seal(connection, file) if version == SEALED else None)


def check_head(file: Path, head: Head) -> None:
    """Checks what a head says beside its collection's vectors; salvage does without it.

    Raises:
        DataLoss: it was never written here.
    """
    if not (is_time(head.spec.created_at) and 0 <= head.item_count <= head.next_seq):
        raise damaged(file, "its head can't be read")


def is_time(created_at: float) -> bool:
    """Whether a collection can have been created then."""
    return 0 <= created_at < _YEAR_10000_S


def _read_seal(connection: apsw.Connection, file: Path) -> Seal:
    match connection.execute("SELECT key_id, salt, proof, crc FROM seal").fetchall():
        # Checked, so that damage is not mistaken for a missing key.
        case [(str(key), bytes(salt), bytes(proof), crc)] if crc == checksum(0, key, salt, proof):
            return Seal(key, salt, proof)
        case _:
            raise damaged(file, "the record of its key can't be read")


def checksum(seq: int, name: str, *contents: bytes) -> int:
    """Returns the checksum at the end of a row of `items`."""
    crc = zlib.crc32(name.encode(), seq & 0xFFFFFFFF)
    # From the left in both layouts: in version 1, id, vector and metadata.
    for content in contents:
        crc = zlib.crc32(content, crc)
    return crc


def state_sum(connection: apsw.Connection, names: Sequence[str] | None = None) -> int:
    """Returns the checksum of a file's head and of its bulk writes.

    It is a sum modulo 2^32, so that it can be updated from what the changed rows contribute before and after. (With
    XOR, the same bit changed in two rows would leave no trace.)

    Args:
        connection: to the file.
        names: keys of the bulk writes to include besides the head; None for all.

    Raises:
        apsw.Error: the file is damaged.
    """
    total = _sum_of(connection.execute("SELECT * FROM collection"))
    if names is None:
        total += _sum_of(connection.execute("SELECT * FROM ingests"))
    elif names:
        found = "SELECT * FROM ingests WHERE id IN (SELECT value FROM json_each(?))"
        total += _sum_of(connection.execute(found, (json.dumps(names),)))
    return total & 0xFFFFFFFF


def _sum_of(rows: Iterable[Sequence[object]]) -> int:
    # As stored: a value may be read back with another type.
    return sum(zlib.crc32(ascii(tuple(row)).encode()) for row in rows)


def write_state_sum(connection: apsw.Connection, total: int) -> None:
    """Records the checksum of `state_sum`, within the transaction that changes what it covers."""
    connection.execute(f"PRAGMA application_id = {_signed(total)}")


def check_state(connection: apsw.Connection, file: Path) -> int:
    """Checks a file's head and its bulk writes against their checksum, and returns the correct checksum.

    A file from before the checksum was introduced has none until it is next written to.

    Raises:
        DataLoss: they are not what was written.
        apsw.Error: the file is damaged.
    """
    ((recorded,),) = connection.execute("PRAGMA application_id").fetchall()
    total = state_sum(connection)
    if recorded not in {0, _signed(total)}:
        raise damaged(file, "its head, or the record of its bulk writes, does not match the checksum")
    return total


def _signed(total: int) -> int:
    """Returns a checksum as SQLite's signed 32-bit number; never 0, which means that there is none."""
    return int.from_bytes((total or 1).to_bytes(4, "little"), "little", signed=True)


def is_sound(row: Sequence[object], head: Head) -> bool:
    """Returns whether a row of `items` is what was written, as far as this can be determined without a key."""
    match row:
        case (int(seq), str(name), bytes(vector), bytes(metadata), crc) if head.seal is None:
            return len(vector) == 4 * head.spec.dimension and crc == checksum(seq, name, vector, metadata)
        case (int(seq), str(name), bytes(sealed), crc) if head.seal is not None:
            return crc == checksum(seq, name, sealed)
        case _:
            return False


def check_rows(connection: apsw.Connection, file: Path, head: Head) -> None:
    """Checks all rows of a file against their checksums, and the number of its items; needs no key.

    Raises:
        DataLoss: a row, or the number of rows, is not what was written.
        apsw.Error: the file is damaged.
    """
    check_state(connection, file)
    count, last = 0, 0
    for row in connection.execute("SELECT * FROM items ORDER BY seq"):
        if not is_sound(row, head) or not isinstance(row[0], int):
            raise mismatch(file, row[0])
        count, last = count + 1, row[0]
    check_count(file, head, count, last)


def check_count(file: Path, head: Head, count: int, last: int) -> None:
    """Checks how many rows could be read, and the number of the last.

    Raises:
        DataLoss: some are missing, or there are too many.
    """
    if count != head.item_count or last >= head.next_seq:
        raise damaged(file, f"{count} of {head.item_count} items, up to number {last}, can be read")


def mismatch(file: Path, seq: object) -> DataLoss:
    """Returns the error for a row that is not what was written."""
    return damaged(file, f"item number {seq!r} does not match its checksum")
