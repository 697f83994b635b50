"""Files that may be replaced while the server runs: certificates, keys, secrets."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from twinsight_core.errors import StartupError

log = structlog.stdlib.get_logger("twinsight.access")

T = TypeVar("T")


class WatchedFiles(Generic[T]):
    """A value parsed from files, which are reloaded when their contents change. May be used from any thread.

    Contents are compared, not times: a mounted secret changes behind a symbolic link, a file may be rewritten within
    one tick of the file system's clock, and reading a few kilobytes takes microseconds.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        parse: Callable[[Sequence[bytes]], T],
        *,
        reason: str,
        interval_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the files for the first time.

        Args:
            paths: at least one.
            parse: makes the value from the files' contents, in order; raises StartupError if they are invalid.
            reason: of the error for a file that can't be read.
            interval_s: least time between two checks of the files.
            clock: monotonic seconds.

        Raises:
            StartupError: a file can't be read, or `parse` raised it.
        """
        self._paths = tuple(paths)
        self._parse = parse
        self._reason = reason
        self._interval_s = interval_s
        self._clock = clock
        self._looking = threading.Lock()
        contents = self._read()
        self._seen = _digest(contents)
        self._value = parse(contents)
        self._next_look = clock() + interval_s
        self._unreadable = False

    @property
    def latest(self) -> T:
        """The value that `current` returned last, without checking the files."""
        return self._value

    def current(self) -> T:
        """Returns the value of the files as they are now or were a moment ago.

        If they can't be used, that is logged once, and the value stays as it was.
        """
        if self._clock() >= self._next_look and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._next_look = self._clock() + self._interval_s
                self._looking.release()
        return self._value

    def _look(self) -> None:
        try:
            contents = self._read()
        except StartupError as error:
            if not self._unreadable:
                self._warn(error)
            self._unreadable = True
            return
        self._unreadable = False
        seen = _digest(contents)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._value = self._parse(contents)
        except StartupError as error:
            self._warn(error)
            return
        log.info("files reloaded", files=[str(path) for path in self._paths])

    def _warn(self, error: StartupError) -> None:
        log.warning("changed files can't be used; their previous contents stay in force", error=error.message)

    def _read(self) -> list[bytes]:
        return [self._read_one(path) for path in self._paths]

    def _read_one(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise StartupError(f"{path}: can't be read ({error.strerror}).", reason=self._reason) from error


def _digest(contents: Sequence[bytes]) -> bytes:
    """Returns a digest of all files, so that their contents, some of them secret, need not stay in memory."""
    return b"".join(hashlib.sha256(content).digest() for content in contents)
