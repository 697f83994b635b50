"""The audit log: one JSON line for each call, stream and message of a stream, including rejected ones.

    {"time": "2026-03-01T12:00:00.123456Z", "event": "call", "caller": "key:phone", "peer": "ipv4:10.0.0.7:51234",
     "method": "UpsertItems", "collection": "photos", "items": 32, "model": "base", "failed": 1, "written": 31,
     "deleted": 0, "purged": false, "returned": 0, "vectors": false, "code": "OK", "reason": "", "unproven": "",
     "request_id": "6f1c..."}

It records who requested what, and the outcome (`Effect`). It never contains vectors, pictures, metadata, ids of items
or tokens. Each line is written in one piece, so that several threads or processes can share a file. If the file was
moved away, it is created again, so that the usual tools can rotate it without a signal. If a full disk accepts only
part of a line, the entry is lost, and the part stays as a line that is not JSON.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import structlog

from twinsight_core.errors import StartupError

log = structlog.stdlib.get_logger("twinsight.access")

_CLOSED = -1  # in place of a file descriptor

_LONGEST_NAME = 80
"""Characters of a collection's id to record: anything longer can't be one, but may have been requested."""


@dataclass(frozen=True)
class About:
    """What a caller requests, as far as it is known before it is done.

    Attributes:
        event: a whole unary call, a whole stream, or one message of a stream.
        method: name of the method.
        collection: id of the collection that it names; None: it names none.
        items: number of items in it.
    """

    event: Literal["call", "stream", "message"]
    method: str
    collection: str | None = None
    items: int = 0

    @property
    def collection_start(self) -> str | None:
        """The collection's id, cut to the length that is recorded."""
        return None if self.collection is None else self.collection[:_LONGEST_NAME]


@dataclass
class Effect:
    """What a call or message changed or read. It holds whatever the status code is.

    Attributes:
        model: name of the model that was run on its pictures; empty: none was.
        failed: items of the request whose result is an error.
        written: items that are on disk.
        deleted: items that were deleted.
        purged: whether the deleted items were erased too.
        returned: stored items in the response, counted once per query that found them.
        vectors: whether they were returned with their vectors.
    """

    model: str = ""
    failed: int = 0
    written: int = 0
    deleted: int = 0
    purged: bool = False
    returned: int = 0
    vectors: bool = False


class AuditLog:
    """Writes entries to a file. May be used from any thread."""

    def __init__(self, path: Path) -> None:
        """Opens the file, and creates it if it does not exist.

        Raises:
            StartupError: it can't be written.
        """
        self._path = path
        self._writing = threading.Lock()
        self._failing = False
        self._left_behind = False
        try:
            self._file = _opened(path)
            self._torn = _is_torn(self._file, path)
        except OSError as error:
            raise StartupError(
                f"{path}: can't be written ({error.strerror}).", reason="AUDIT_LOG_UNWRITABLE"
            ) from error

    def write(
        self,
        about: About,
        effect: Effect,
        *,
        caller: str,
        peer: str,
        code: str,
        reason: str,
        request_id: str,
        unproven: str = "",
    ) -> None:
        """Writes a line. If that fails, the server goes on answering, and logs the failure once.

        Args:
            about: what was requested.
            effect: what was done.
            caller: kind and name, `key:phone`; empty: not known.
            peer: address of the client, as gRPC reports it.
            code: the status of the response.
            reason: stable name of the failure; empty: it succeeded.
            request_id: as in the log.
            unproven: why the caller's credential is not valid; empty: that was not the failure.
        """
        line = _line(
            {
                "event": about.event,
                "caller": caller,
                "peer": peer,
                "method": about.method,
                "collection": about.collection_start,
                "items": about.items,
                **vars(effect),
                "code": code,
                "reason": reason,
                "unproven": unproven,
                "request_id": request_id,
            }
        )
        with self._writing:
            if self._file == _CLOSED:
                log.error("entry arrived after the audit log was closed and is lost", file=str(self._path))
                return
            try:
                self._follow_if_it_can()
                # Other processes may have written since, so the fragment can't be truncated.
                line = b"\n" + line if self._torn else line
                written = os.write(self._file, line)
                if written:
                    self._torn = not line[:written].endswith(b"\n")
                if written < len(line):
                    raise OSError(f"only {written} of {len(line)} bytes were written")
            except OSError as error:
                if not self._failing:
                    log.error(
                        "the audit log can't be written; entries are lost", file=str(self._path), error=str(error)
                    )
                self._failing = True
                return
            if self._failing:
                self._failing = False
                log.warning("the audit log can be written again", file=str(self._path))

    def close(self) -> None:
        """Closes the file; later entries are lost, which is logged."""
        with self._writing:
            # Its descriptor is soon reused for another file.
            file, self._file = self._file, _CLOSED
            os.close(file)

    def _follow_if_it_can(self) -> None:
        """Creates the file again if it was moved away; if that fails, lines still go into the moved file."""
        try:
            self._follow()
        except OSError as error:
            if not self._left_behind:
                log.error(
                    "the audit log was moved away and can't be created again; entries go into the moved file",
                    file=str(self._path),
                    error=str(error),
                )
            self._left_behind = True
            return
        if self._left_behind:
            self._left_behind = False
            log.warning("the audit log was created again", file=str(self._path))

    def _follow(self) -> None:
        """Opens the file by its name again if that is now another file, or none."""
        mine = os.fstat(self._file)
        try:
            named = self._path.stat()
        except FileNotFoundError:
            pass
        else:
            if (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino):
                return
        fresh = _opened(self._path)
        os.close(self._file)
        self._file = fresh
        self._torn = _is_torn(fresh, self._path)


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _is_torn(file: int, path: Path) -> bool:
    """Whether a file opened for writing ends within a line, as after a full disk and a restart."""
    size = os.fstat(file).st_size
    if not size or not stat.S_ISREG(os.fstat(file).st_mode):
        return False
    try:
        with path.open("rb") as content:
            return os.pread(content.fileno(), 1, size - 1) != b"\n"
    except OSError:  # the file may be writable but not readable
        return False


def _line(fields: Mapping[str, str | int | None]) -> bytes:
    time = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    # In ASCII: a requested id may contain anything, even a lone surrogate.
    return json.dumps({"time": time, **fields}, separators=(",", ":")).encode("ascii") + b"\n"
