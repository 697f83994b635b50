"""Files of a folder or a zip, read within limits: no crafted archive fills memory, no bad entry ends a run."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from twinsight_core.errors import TrainingError
from twinsight_core.images import DEFAULT_LIMITS

# Files held undecoded at a time: enough to keep all cores busy, however large the files are.
_CHUNK_FILES, _CHUNK_BYTES = 64, 64 * 1024 * 1024
# Further names are only counted.
_NAMED = 50
# macOS packs a folder of its own into zips.
_NOT_OF_THE_SET = "__MACOSX"
_ENCRYPTED = 1  # PKWARE, APPNOTE 6.3.10, section 4.4.4
# What `zipfile` raises, depending on where an archive is damaged; NotImplementedError is a RuntimeError.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)


class Files:
    """The files of a folder or a zip by their paths in it; nothing else is ever opened.

    Symbolic links in a folder are followed; a link to a folder that contains it is ignored.

    Args:
        path: a folder or a zip.

    Attributes:
        path: the same.
        names: paths of all files, with `/` between their parts.
        shown: those that are not hidden; see `is_shown`.
        folders: paths of all folders, likewise.
        dangling: paths of links whose target does not exist.

    Raises:
        TrainingError: it does not exist, or is neither, or a folder in it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, zipfile.ZipInfo] = {}
        try:
            self._archive = zipfile.ZipFile(path) if path.is_file() else None
            if self._archive is not None:
                self._entries = {one.filename: one for one in self._archive.infolist() if not one.is_dir()}
                found = _of_archive(self._archive)
            elif path.is_dir():
                found = _Listing(set(), set(), set())
                _list(path, "", frozenset(), found)
            else:
                raise TrainingError(f"{path}: no such folder or zip.", reason="DATA_MISSING")
        except OSError as error:
            where = error.filename or path
            raise TrainingError(f"{where}: can't be read ({error.strerror}).", reason="DATA_UNREADABLE") from error
        except _ZIP_ERRORS as error:
            raise TrainingError(f"{path}: neither a folder nor a zip.", reason="DATA_UNREADABLE") from error
        self.names, self.folders, self.dangling = (frozenset(one) for one in found)
        self.shown = frozenset(name for name in self.names if is_shown(name))

    def read(self, name: str, *, most_bytes: int = DEFAULT_LIMITS.max_bytes) -> bytes:
        """Returns a file's content.

        Args:
            name: one of `names`.
            most_bytes: a larger file is rejected unread.

        Raises:
            ValueError: it is too large, damaged, encrypted or can't be read; a sentence that does not name it.
        """
        try:
            size = self._size(name)
        except OSError as error:
            raise ValueError(f"The file can't be read ({error.strerror}).") from error
        if size > most_bytes:
            raise ValueError(f"The file has {size:,} bytes; the limit is {most_bytes:,}.")
        try:
            return (self.path / name).read_bytes() if self._archive is None else self._unpacked(self._archive, name)
        except OSError as error:
            raise ValueError(f"The file can't be read ({error.strerror or error}).") from error
        except _ZIP_ERRORS as error:
            raise ValueError(f"The zip's entry can't be read ({error}).") from error

    def fingerprint(self, names: Sequence[str]) -> str:
        """Returns a hash that changes when one of some files does: of sizes, and checksums or times of change."""
        digest = hashlib.sha256()
        for name in names:
            state: tuple[int, ...]
            if self._archive is not None:
                state = (self._entries[name].CRC, self._entries[name].file_size)
            else:
                found = (self.path / name).stat(follow_symlinks=name not in self.dangling)
                # The last also changes with permissions: a file that could not be read may be readable now.
                state = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            digest.update(json.dumps([name, *state]).encode())
        return digest.hexdigest()

    def _size(self, name: str) -> int:
        return (self.path / name).stat().st_size if self._archive is None else self._entries[name].file_size

    def _unpacked(self, archive: zipfile.ZipFile, name: str) -> bytes:
        entry = self._entries[name]
        # The other methods unpack whole blocks, however little is asked for.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("its compression is not deflate")
        if entry.flag_bits & _ENCRYPTED:
            raise ValueError("it is encrypted")
        with archive.open(entry) as packed:
            # An entry may hold more than its header says; only what is asked for is unpacked.
            return packed.read(max(1, entry.file_size))


def is_shown(name: str) -> bool:
    """Returns whether neither a file nor any folder that contains it is hidden."""
    return not any(part.startswith(".") or part == _NOT_OF_THE_SET for part in PurePosixPath(name).parts)


def composed(name: str) -> str:
    """Returns a name in the form that names are compared in, Unicode's NFC: macOS separates letters and accents."""
    return unicodedata.normalize("NFC", name)


def check_names(path: Path, names: Iterable[str]) -> None:
    """Checks that a source and its files have names that a card, a record or a report can hold.

    Args:
        path: the source.
        names: paths in it.

    Raises:
        TrainingError: some are not UTF-8; the message shows those bytes in hexadecimal.
    """
    known = (one for one in (path.name, *names) if not one.isascii())
    bad = sorted({_escaped(one) for one in known if _escaped(one) != one})
    if bad:
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise TrainingError(
            f"{_escaped(str(path))}: names must be UTF-8; these are not: {', '.join(bad[:_NAMED])}{more}.",
            reason="NAME_NOT_UTF8",
        )


def _escaped(name: str) -> str:
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


class _Listing(NamedTuple):
    """Paths of what lies in a folder or a zip; see `Files`."""

    files: set[str]
    folders: set[str]
    dangling: set[str]


def _list(folder: Path, name: str, above: frozenset[tuple[int, int]], into: _Listing) -> None:
    """Adds what lies in a folder to a listing.

    Args:
        folder: the folder.
        name: its path in the source, with a slash behind it; empty at the top.
        above: device and inode of the folders that contain it.
        into: the listing.

    Raises:
        OSError: a folder can't be read.
    """
    state = folder.stat()
    here = above | {(state.st_dev, state.st_ino)}
    with os.scandir(folder) as entries:
        for one in entries:
            path = f"{name}{one.name}"
            try:
                is_folder, is_file = one.is_dir(), one.is_file()
            except OSError:  # a link to itself, say
                is_folder = is_file = False
            if is_folder:
                state = Path(one).stat()
                if (state.st_dev, state.st_ino) not in here:
                    into.folders.add(path)
                    _list(Path(one), f"{path}/", here, into)
            elif is_file:
                into.files.add(path)
            elif one.is_symlink() and not Path(one).exists():
                into.dangling.add(path)


def _of_archive(archive: zipfile.ZipFile) -> _Listing:
    files = {one.filename for one in archive.infolist() if not one.is_dir()}
    # Some packers prefix each name with `./`.
    folders = {str(PurePosixPath(one.filename)) for one in archive.infolist() if one.is_dir()}
    within = {str(parent) for name in files | folders for parent in PurePosixPath(name).parents}
    return _Listing(files, (folders | within) - {".", "/"}, set())


def in_chunks(files: Files, names: Sequence[str]) -> Iterator[list[bytes | str]]:
    """Yields the bytes of pictures in their order, or what is wrong with one, in chunks of limited size.

    A zip's file handle is shared, so only one thread reads.
    """
    chunk: list[bytes | str] = []
    held = 0
    for name in names:
        try:
            content: bytes | str = files.read(name)
        except ValueError as error:
            content = str(error)
        chunk.append(content)
        held += len(content)
        if len(chunk) == _CHUNK_FILES or held >= _CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
