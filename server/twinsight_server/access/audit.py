"""The audit log: one JSON line for each call, stream and message of a stream, those that were refused among them.

    {"time": "2026-03-01T12:00:00.123456Z", "event": "call", "caller": "key:phone", "peer": "ipv4:10.0.0.7:51234",
     "method": "UpsertItems", "collection": "photos", "items": 32, "model": "base", "failed": 1, "written": 31,
     "deleted": 0, "purged": false, "returned": 0, "vectors": false, "code": "OK", "reason": "", "unproven": "",
     "request_id": "6f1c..."}

It says who did what to what: what was asked for, and what came of it (`Effect`). Vectors, pictures, metadata, ids of
items and tokens are never in it. Each line is written at once and whole, so that several threads, or processes, may
share a file; one that was moved away is opened anew, so that the usual tools may rotate it without a signal. A line of
which a full disk took only a part is lost, and stays as a line that is no JSON.
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

_CLOSED = -1  # in the place of a file

_LONGEST_NAME = 80
"""Characters of a collection's id: what is longer can't be one, but may have been asked for."""


@dataclass(frozen=True)
class About:
    """What a caller asks for, as far as it can be told of before it is done.

    Attributes:
        event: a whole unary call, a whole stream, or one message of a stream.
        method: its name.
        collection: id of the collection that it names; None: it names none.
        items: things in it.
    """

    event: Literal["call", "stream", "message"]
    method: str
    collection: str | None = None
    items: int = 0

    @property
    def collection_start(self) -> str | None:
        """As much of the collection's id as is written down: what is longer can't be one."""
        return None if self.collection is None else self.collection[:_LONGEST_NAME]


@dataclass
class Effect:
    """What a call, or a message, did, or learnt of a collection. What was done stays done whatever the code says.

    Attributes:
        model: name of the one that was run on pictures of it; empty: none was.
        failed: things in the request whose answer is an error of their own.
        written: items that are on disk.
        deleted: items that are gone.
        purged: whether what was deleted was erased, too.
        returned: stored items in the answer, one in each answer of each query it is in.
        vectors: whether they were there with their vectors.
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
        """Opens the file, and makes it where there is none.

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
        """Writes a line. A disk that takes none does not keep the server from answering; the log says so once.

        Args:
            about: what was asked for.
            effect: what came of it.
            caller: kind and name, `key:phone`; empty: not known.
            peer: where the connection comes from, as gRPC says.
            code: the status that it was answered with.
            reason: stable word for a failure; empty: there is none.
            request_id: as in the log.
            unproven: why the caller's credential is not good; empty: that is not what is wrong.
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
                log.error("an entry came after the audit log was closed, and is lost", file=str(self._path))
                return
            try:
                self._follow_if_it_can()
                # Others may have written since, so the fragment can't be cut off.
                line = b"\n" + line if self._torn else line
                written = os.write(self._file, line)
                if written:
                    self._torn = not line[:written].endswith(b"\n")
                if written < len(line):
                    raise OSError(f"only {written} of {len(line)} bytes were taken")
            except OSError as error:
                if not self._failing:
                    log.error(
                        "the audit log can't be written; entries are lost", file=str(self._path), error=str(error)
                    )
                self._failing = True
                return
            if self._failing:
                self._failing = False
                log.warning("the audit log is written again", file=str(self._path))

    def close(self) -> None:
        """Closes the file; what is written later is lost, which is told."""
        with self._writing:
            # Its number is soon another file's.
            file, self._file = self._file, _CLOSED
            os.close(file)

    def _follow_if_it_can(self) -> None:
        """Opens the file anew where it was moved away; where that fails, lines go on into the one that was."""
        try:
            self._follow()
        except OSError as error:
            if not self._left_behind:
                log.error(
                    "the audit log was moved away and can't be made anew; entries go into the file that was moved",
                    file=str(self._path),
                    error=str(error),
                )
            self._left_behind = True
            return
        if self._left_behind:
            self._left_behind = False
            log.warning("the audit log is made anew", file=str(self._path))

    def _follow(self) -> None:
        """Opens the file anew where another has its name, or none."""
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
    """Whether a file that was opened for writing ends within a line, as a full disk and then a restart leave it."""
    size = os.fstat(file).st_size
    if not size or not stat.S_ISREG(os.fstat(file).st_mode):
        return False
    try:
        with path.open("rb") as content:
            return os.pread(content.fileno(), 1, size - 1) != b"\n"
    except OSError:  # it may be written, but not read
        return False


def _line(fields: Mapping[str, str | int | None]) -> bytes:
    time = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    # In ASCII: an id may hold anything, a lone surrogate, too.
    return json.dumps({"time": time, **fields}, separators=(",", ":")).encode("ascii") + b"\n"
