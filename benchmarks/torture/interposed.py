"""A file system for SQLite that asks a watcher before it changes anything."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from unittest import mock

import apsw

_numbers = itertools.count(1)
_JOURNALS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL


@dataclass(frozen=True)
class Write:
    """Bytes at an offset."""

    file: Path
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    """A new size."""

    file: Path
    size: int


@dataclass(frozen=True)
class Sync:
    """All that was written becomes durable."""

    file: Path


@dataclass(frozen=True)
class Delete:
    """The name goes; durably if `synced`."""

    file: Path
    synced: bool


Step = Write | Truncate | Sync | Delete


class Watcher(Protocol):
    """Hears of every step, and may stop it."""

    def opened(self, file: Path, *, journal: bool) -> None:
        """A file was opened, and made if there was none."""
        ...

    def before(self, step: Step) -> None:
        """A step is about to be done; an exception of apsw fails it."""
        ...


@contextmanager
def interposed(watcher: Watcher) -> Iterator[str]:
    """Puts a watcher before the platform's file system, under the name that this yields; all must be closed after."""
    name = f"interposed-{next(_numbers)}"
    vfs = _Interposed(name, watcher)
    unraisable = sys.unraisablehook

    def quiet(unraised: sys.UnraisableHookArgs) -> None:
        # Of two steps that fail in one call of SQLite's, apsw can raise only one.
        if not isinstance(unraised.exc_value, apsw.Error):
            unraisable(unraised)

    with mock.patch.object(sys, "unraisablehook", quiet):
        try:
            yield name
        finally:
            vfs.unregister()


class _Interposed(apsw.VFS):
    def __init__(self, name: str, watcher: Watcher) -> None:
        super().__init__(name, base="")
        self._watcher = watcher

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        file = _File(name, flags, self._watcher)
        if name is not None:
            journal = bool(flags[0] & _JOURNALS)
            self._watcher.opened(_path(name), journal=journal)
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self._watcher.before(Delete(Path(filename), syncdir))
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], watcher: Watcher) -> None:
        super().__init__("", name, flags)
        # What has no name is SQLite's own scratch space.
        self._path = None if name is None else _path(name)
        self._watcher = watcher

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if self._path is not None:
            self._watcher.before(Write(self._path, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        if self._path is not None:
            self._watcher.before(Truncate(self._path, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        # What is durable is the watcher's to say; the disk below need not be waited for.
        del flags
        if self._path is not None:
            self._watcher.before(Sync(self._path))


def _path(name: str | apsw.URIFilename) -> Path:
    return Path(name.filename() if isinstance(name, apsw.URIFilename) else name)


def io_error(code: int) -> apsw.IOError:
    """Returns SQLite's error of a disk that fails, with its extended code."""
    error = apsw.IOError("disk I/O error")
    error.extendedresult = code  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # not in its stubs
    return error
